"""A training step repeated as a run made it, with norms of its arrays.

Batches and steps are functions of (seed, step), so on the same devices the repeat is
equal to the last bit. Nothing is written into the workdir.
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
    """A step that cannot be repeated."""


@dataclasses.dataclass(frozen=True)
class FaultyRow:
    """A row of the batch whose embedding is not finite."""

    row: int  # index in the global batch
    not_finite: list[str]  # names of embeddings
    index: int  # of the image in the training list
    image: str  # file and line
    label: int
    sentence: str  # empty if none was drawn


@dataclasses.dataclass(frozen=True)
class Repeat:
    """A repeated step.

    Attributes:
      stage: name of the stage.
      requested: number of the requested step.
      step: number of the measured step: an earlier one that is not finite comes first.
      num_steps: of the stage.
      started: steps before the checkpoint that the repeat began from.
      devices: of the repeat.
      incident: the run's record of the requested step, if any.
      metrics: of the step.
      arrays: sizes in the `state` before the step, the `frozen` arrays and `gradients`.
      rows: norms of embeddings and largest logits, by row.
      faulty: rows whose embeddings are not finite.
      pixels: images of the step, unless it reads features.
    """

    stage: str
    requested: int
    step: int
    num_steps: int
    started: int
    devices: str
    incident: Incident | None
    metrics: dict[str, float]
    arrays: dict[str, dict[str, ArraySize]]
    rows: dict[str, Float[np.ndarray, " B"]]
    faulty: list[FaultyRow]
    pixels: UInt8[np.ndarray, "B H W 3"] | None

    @property
    def not_finite(self) -> list[str]:
        """Names of the metrics that are not finite."""
        return incidents.not_finite(self.metrics)

    @property
    def comes_back(self) -> bool | None:
        """True if the run's metrics are not finite here; None without a record."""
        if self.incident is None:
            return None
        same_step = self.step == self.requested
        return same_step and set(self.not_finite) == set(self.incident.not_finite)

    @property
    def equal(self) -> bool | None:
        """True if all metrics are bit-equal to the run's; None without a record."""
        if self.incident is None:
            return None
        metrics = {name: incidents.number(v) for name, v in self.metrics.items()}
        return self.step == self.requested and metrics == self.incident.metrics


def repeat(
    run: Run,
    name: str,
    stage: TrainingStage,
    step: int,
    incident: Incident | None = None,
    *,
    from_start: bool = False,
) -> Repeat:
    """Repeats the steps from the last checkpoint up to a step, and measures that.

    The run has `writes=False`. Steps count from 1; `incident` is the run's record.

    Raises:
      RepeatError: the stage has no such step, or the checkpoint is gone.
      UserError: an artifact or checkpoint cannot be read.
    """
    mesh = run.mesh
    with _cache_unchanged():
        job = stage.job(run)
        if not 1 <= step <= job.plan.num_steps:
            raise RepeatError(
                f"--step={step}: {name} has steps 1 to {job.plan.num_steps}. Name one."
            )
        frozen = job.frozen()
        state, shardings = training.first_state(
            job.variables, job.optimizer, mesh, run.config.mesh.fsdp
        )
    if not from_start:
        state = _restored(run, job, state, step, incident)
    started, skipped = int(state.step), _skipped(run, job, step, incident)
    compiled = job.compiled(frozen, shardings, mesh, run.config)
    numbers = range(started + 1, step + 1)
    with (
        contextlib.closing(job.batches(started)) as host_batches,
        contextlib.closing(meshes.prefetch(mesh, host_batches)) as batches,
        console.progress_bar(f"{name}: again", len(numbers), "steps") as bar,
    ):
        for number in numbers:
            batch = next(batches)
            bar.update()
            if number in skipped:
                state = dataclasses.replace(state, step=state.step + 1)
                continue
            before = jax.tree.map(lambda leaf: leaf.copy(), state)
            state, outputs = compiled(state, batch)
            metrics = {k: float(v) for k, v in jax.device_get(dict(outputs)).items()}
            if incidents.not_finite(metrics):
                break
        drawn = host_batches.drawn(number - 1)
    with _cache_unchanged():
        norms, logits = {}, {}
        if job.probe is not None:
            norms, logits = map(
                meshes.to_host, jax.jit(job.probe)(frozen, before, batch)
            )
        return Repeat(
            name,
            step,
            number,
            job.plan.num_steps,
            started,
            incidents.devices(mesh.devices.flat),
            incident,
            metrics,
            {
                "state": array_sizes.measure(before),
                "frozen": array_sizes.measure(frozen),
                "gradients": _gradients(job, frozen, before, batch),
            },
            {f"norm of {name}": rows for name, rows in norms.items()}
            | {f"largest of {name}": rows for name, rows in logits.items()},
            _faulty_rows(run, norms, drawn),
            meshes.to_host(batch["image"]) if "image" in batch else None,
        )


@contextlib.contextmanager
def _cache_unchanged() -> Iterator[None]:
    """Keeps XLA on GPUs from adding programs of the repeat to the run's cache.

    The step itself is compiled outside: with other options it would not be the program
    in the cache.
    """
    option = "jax_persistent_cache_enable_xla_caches"
    before = getattr(jax.config, option)
    jax.config.update(option, "none")
    try:
        yield
    finally:
        jax.config.update(option, before)


def _restored(
    run: Run, job: training.Job, state: Any, step: int, incident: Incident | None
) -> Any:
    """Returns the state of the last checkpoint before a step, or the first state."""
    checkpoints = job.directory / "checkpoints"
    restored = restore.restore_up_to(checkpoints, step - 1, state)
    if restored is not None:
        return restored[0]
    if incident is not None and incident.checkpoint:
        raise RepeatError(
            f"{checkpoints}: checkpoint {incident.checkpoint} before step {step} is "
            f"gone, and no older one remains (log.keep_checkpoints="
            f"{run.config.log.keep_checkpoints}). --from_start repeats all "
            f"{step - 1} steps before it."
        )
    return state


def _skipped(
    run: Run, job: training.Job, step: int, incident: Incident | None
) -> set[int]:
    """Returns the earlier steps that the run has skipped."""
    if incident is not None:
        return set(incident.skipped)
    if run.config.faults.non_finite != "skip":
        return set()
    return {number for number in incidents.steps(job.directory) if number < step}


def _gradients(
    job: training.Job, frozen: Any, state: Any, batch: Any
) -> dict[str, ArraySize]:
    """Measures the gradients, by an optimizer whose state is the gradient."""

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del state, params
        return jax.tree.map(jax.numpy.zeros_like, gradients), gradients

    step = job.make_step(optax.GradientTransformation(lambda params: (), update))

    @jax.jit
    def sizes(frozen: Any, state: Any, batch: Any) -> Any:
        after, _ = step(frozen, dataclasses.replace(state, opt_state=()), batch)
        return array_sizes.reduce(after.opt_state)

    return array_sizes.named(state.params, sizes(frozen, state, batch))


def _faulty_rows(
    run: Run, norms: dict[str, Float[np.ndarray, " B"]], drawn: BatchDraw
) -> list[FaultyRow]:
    split, sentences = run.inputs.data.train, run.inputs.corpus.sentences
    wrong = {name: ~np.isfinite(values) for name, values in norms.items()}
    rows = functools.reduce(np.logical_or, wrong.values(), np.zeros(1, bool))
    faulty = []
    for row in np.flatnonzero(rows).tolist():
        index = int(drawn.images[row])
        faulty.append(
            FaultyRow(
                row,
                [name for name, flags in wrong.items() if flags[row]],
                index,
                split.describe(index),
                int(split.labels[index]),
                "" if drawn.sentences is None else sentences[drawn.sentences[row]],
            )
        )
    return faulty
