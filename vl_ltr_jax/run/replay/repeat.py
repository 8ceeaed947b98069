"""A training step made again, as a run has made it, and looked at closely.

Batches and steps are functions of (seed, step), so that on the same devices the repeat
is equal to the last bit. Nothing is written into the workdir.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Float, UInt8

from vl_ltr_jax.checkpoint import restore
from vl_ltr_jax.data.batches.sampler import BatchDraw
from vl_ltr_jax.logs import console
from vl_ltr_jax.run.head_training import TrainingStage
from vl_ltr_jax.run.replay import array_sizes
from vl_ltr_jax.run.replay.array_sizes import ArraySize
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.runtime.errors import UserError
from vl_ltr_jax.train import incidents
from vl_ltr_jax.train import stage as training
from vl_ltr_jax.train.incidents import Incident


class RepeatError(UserError):
    """A step that cannot be made again."""


@dataclasses.dataclass(frozen=True)
class WrongRow:
    """A row of the batch that gives what is not finite.

    Attributes:
      row: its place in the global batch.
      found: what of it is not finite.
      index: of the image in the training list.
      image: its file and line.
      label: its class.
      sentence: drawn for it; empty where none is.
      pixels: that the step was given, where it was given images.
    """

    row: int
    found: list[str]
    index: int
    image: str
    label: int
    sentence: str
    pixels: UInt8[np.ndarray, "H W 3"] | None


@dataclasses.dataclass(frozen=True)
class Repeat:
    """What was seen of a step.

    Attributes:
      stage: that it is a step of.
      asked: the step that was to be looked at.
      step: that was: one before it, if that was not finite already.
      num_steps: of the stage.
      started: steps done at the checkpoint that it began from.
      devices: that it ran on.
      incident: what the run has kept of the step that was asked for.
      metrics: of the step.
      state: parameters, statistics and moments before it.
      frozen: what it reads and never changes.
      gradients: by parameter.
      lengths: of embeddings, by row.
      logits: largest magnitudes, by row.
      wrong: rows that give what is not finite.
      finite_in_float32: whether all metrics are, where the run computes in less and
        they are not.
    """

    stage: str
    asked: int
    step: int
    num_steps: int
    started: int
    devices: str
    incident: Incident | None
    metrics: dict[str, float]
    state: dict[str, ArraySize]
    frozen: dict[str, ArraySize]
    gradients: dict[str, ArraySize]
    lengths: dict[str, Float[np.ndarray, " B"]]
    logits: dict[str, Float[np.ndarray, " B"]]
    wrong: list[WrongRow]
    finite_in_float32: bool | None

    @property
    def not_finite(self) -> list[str]:
        """Names of the metrics that are not."""
        return incidents.not_finite(self.metrics)


def repeat(
    run: Run,
    name: str,
    stage: TrainingStage,
    step: int,
    incident: Incident | None = None,
    *,
    from_start: bool = False,
) -> Repeat:
    """Makes the steps from the checkpoint before up to one again, and looks at that.

    Args:
      run: one that writes nothing.
      name: of the stage.
      stage: that trains.
      step: from 1.
      incident: what the run has kept of it.
      from_start: makes all steps again, from the first.

    Raises:
      RepeatError: if the stage has no such step, or the checkpoint is gone.
      UserError: if an artifact or checkpoint cannot be read.
    """
    mesh = run.mesh
    with _programs_unkept():
        job = stage.job(run)
    if not 1 <= step <= job.plan.num_steps:
        raise RepeatError(
            f"--step={step}: {name} has steps 1 to {job.plan.num_steps}; name one"
        )
    with _programs_unkept():
        frozen = job.frozen()
        state, shardings = training.first_state(
            job.variables, job.optimizer, mesh, run.config.mesh.fsdp
        )
    started, skipped = 0, _skipped(job, run, step, incident)
    restored = None
    if not from_start:
        saved = job.directory / "checkpoints"
        restored = restore.restore_up_to(saved, step - 1, state)
        if restored is not None:
            state, _ = restored
            started = int(state.step)
        elif incident is not None and incident.checkpoint:
            raise RepeatError(
                f"checkpoint {incident.checkpoint} of before step {step} is gone from "
                f"{saved}, and none older is there (log.keep_checkpoints="
                f"{run.config.log.keep_checkpoints}); --from_start makes all "
                f"{step - 1} steps before it again"
            )
    compiled = job.compiled(frozen, shardings, mesh, run.config)
    numbers = range(started + 1, step + 1)
    with (
        contextlib.closing(job.batches(started)) as host_batches,
        contextlib.closing(meshes.prefetch(mesh, host_batches)) as batches,
        console.Progress(f"{name}: again", len(numbers), "steps") as line,
    ):
        for number in numbers:
            batch = next(batches)
            line.update()
            if number in skipped:
                state = dataclasses.replace(state, step=state.step + 1)
                continue
            before = jax.tree.map(lambda leaf: leaf.copy(), state)
            state, found = compiled(state, batch)
            metrics = {key: float(v) for key, v in jax.device_get(dict(found)).items()}
            if incidents.not_finite(metrics):
                break
        drawn = host_batches.drawn(number - 1)
    look = _Look(run, stage, job, frozen, before, batch)
    with _programs_unkept():
        lengths, logits = look.rows()
        return Repeat(
            name,
            step,
            number,
            job.plan.num_steps,
            started,
            incidents.devices(mesh.devices.flat),
            incident,
            metrics,
            array_sizes.of({"params": before.params, "batch_stats": before.batch_stats})
            | _only_wrong(array_sizes.of({"moments": before.opt_state})),
            array_sizes.of(frozen),
            look.gradients(),
            lengths,
            logits,
            _wrong_rows(run, lengths, drawn, look.pixels()),
            look.finite_in_float32() if incidents.not_finite(metrics) else None,
        )


@contextlib.contextmanager
def _programs_unkept() -> Iterator[None]:
    """Keeps XLA on GPUs from adding what is compiled here to the run's cache.

    The step itself is compiled outside: with other options it would be another program
    than the one that the run has left there.
    """
    option = "jax_persistent_cache_enable_xla_caches"
    before = getattr(jax.config, option)
    jax.config.update(option, "none")
    try:
        yield
    finally:
        jax.config.update(option, before)


@dataclasses.dataclass(frozen=True)
class _Look:
    """The inside of a step, whose state and batch are at hand."""

    run: Run
    stage: TrainingStage
    job: training.Job
    frozen: dict[str, Any]
    before: Any
    batch: Any

    def gradients(self) -> dict[str, ArraySize]:
        step = self.job.make_step(_keeps_gradients())
        params = self.before.params

        @jax.jit
        def sizes(frozen: Any, state: Any, batch: Any) -> Any:
            after, _ = step(frozen, dataclasses.replace(state, opt_state=()), batch)
            return array_sizes.reduced(after.opt_state)

        return array_sizes.named(params, sizes(self.frozen, self.before, self.batch))

    def rows(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        if self.job.measure is None:
            return {}, {}
        measured = jax.jit(self.job.measure)(self.frozen, self.before, self.batch)
        return meshes.to_host(measured.lengths), meshes.to_host(measured.logits)

    def pixels(self) -> UInt8[np.ndarray, "B H W 3"] | None:
        if "image" not in self.batch:
            return None
        pixels: np.ndarray = meshes.to_host(self.batch["image"])
        return pixels

    def finite_in_float32(self) -> bool | None:
        config = self.run.config
        if config.model.compute_dtype == "float32":
            return None
        model = dataclasses.replace(config.model, compute_dtype="float32")
        exact = Run(
            dataclasses.replace(config, model=model),
            self.run.workdir,
            self.run.inputs,
            self.run.mesh,
            writes=False,
        )
        job = self.stage.job(exact)
        step = job.make_step(job.optimizer)
        _, metrics = jax.jit(step)(self.frozen, self.before, self.batch)
        return all(np.isfinite(value) for value in jax.device_get(metrics).values())


def _keeps_gradients() -> optax.GradientTransformation:
    """An optimizer that moves nothing, and whose state is the gradient."""

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del state, params
        return jax.tree.map(jax.numpy.zeros_like, gradients), gradients

    return optax.GradientTransformation(lambda params: (), update)


def _skipped(
    job: training.Job, run: Run, step: int, incident: Incident | None
) -> set[int]:
    """Steps before this one that the run has skipped."""
    if incident is not None:
        return set(incident.skipped)
    if run.config.faults.non_finite != "skip":
        return set()
    return {number for number in incidents.steps(job.directory) if number < step}


def _only_wrong(sizes: dict[str, ArraySize]) -> dict[str, ArraySize]:
    """Moments may be of any size."""
    return {path: size for path, size in sizes.items() if size.not_finite}


def _wrong_rows(
    run: Run,
    lengths: dict[str, Float[np.ndarray, " B"]],
    drawn: BatchDraw,
    pixels: UInt8[np.ndarray, "B H W 3"] | None,
) -> list[WrongRow]:
    split, sentences = run.inputs.data.train, run.inputs.corpus.sentences
    bad = {name: ~np.isfinite(values) for name, values in lengths.items()}
    wrong = functools.reduce(np.logical_or, bad.values(), np.zeros(1, bool))
    found = []
    for row in np.flatnonzero(wrong).tolist():
        index = int(drawn.images[row])
        found.append(
            WrongRow(
                row,
                [name for name, rows_of in bad.items() if rows_of[row]],
                index,
                split.describe(index),
                int(split.labels[index]),
                "" if drawn.sentences is None else sentences[drawn.sentences[row]],
                None if pixels is None else pixels[row],
            )
        )
    return found
