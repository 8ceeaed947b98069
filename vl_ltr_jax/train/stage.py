"""One training stage: create or restore the state, run to the last step, save it.

Pre-training and fine-tuning share this and the host loop; they differ by the step and
the batches they pass in.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import optax
from etils import epath

from vl_ltr_jax.checkpoint import checksums, state_items
from vl_ltr_jax.checkpoint.manager import Checkpoints
from vl_ltr_jax.checkpoint.restore import load_params
from vl_ltr_jax.config import settings
from vl_ltr_jax.config.settings import Config, Finetune
from vl_ltr_jax.data.batches.loader import Batches
from vl_ltr_jax.logs.event_files import Logs
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.storage.artifact import Artifact
from vl_ltr_jax.train import flops, incidents, loop, non_finite, optim
from vl_ltr_jax.train import state as train_state
from vl_ltr_jax.train.metrics import Span
from vl_ltr_jax.train.row_probe import Probe
from vl_ltr_jax.train.state import BatchShapes, Step


@dataclasses.dataclass(frozen=True)
class Plan:
    """The length of a training stage, and its learning rates by step."""

    num_steps: int
    global_batch_size: int
    schedule: optax.Schedule
    text_schedule: optax.Schedule | None

    @classmethod
    def from_section(cls, section: settings.Training, num_images: int) -> "Plan":
        """Returns the plan of a stage, with N // batch steps an epoch, at least 1.

        VL-LTR's loader and the loops of cRT and LWS drop the remainder alike. N is the
        size of the training set, for every sampler.
        """
        steps_per_epoch = max(num_images // section.global_batch_size, 1)

        def schedule(learning_rate: float) -> optax.Schedule:
            return optim.cosine_schedule(
                learning_rate,
                epochs=section.epochs,
                steps_per_epoch=steps_per_epoch,
                warmup_epochs=section.warmup_epochs,
                warmup_learning_rate=section.warmup_learning_rate,
                min_learning_rate=section.min_learning_rate,
                per=section.schedule,
            )

        return cls(
            steps_per_epoch * section.epochs,
            section.global_batch_size,
            schedule(section.learning_rate),
            schedule(section.text_learning_rate)
            if isinstance(section, Finetune) and section.head == "lgr"
            else None,
        )

    @property
    def schedules(self) -> dict[str, optax.Schedule]:
        """Learning rates under their names in the log."""
        if self.text_schedule is None:
            return {"learning_rate": self.schedule}
        return {
            "learning_rate/visual": self.schedule,
            "learning_rate/text": self.text_schedule,
        }


@dataclasses.dataclass(frozen=True)
class Job:
    """A training stage before its first step.

    Attributes:
      plan: length and learning rates.
      make_step: from an optimizer to the stage's pure step.
      optimizer: for the parameters of `variables`.
      frozen: makes the arrays that the step reads and never changes, on the devices.
      variables: initial `params` and, for a ResNet, `batch_stats`.
      batches: from a first step to this process's endless batches.
      directory: of checkpoints and event files.
      probe: norms of single rows, for replay.
      batch_shapes: of global batches, the usual one first; each has its own program.
    """

    plan: Plan
    make_step: Callable[[optax.GradientTransformation], Step]
    optimizer: optax.GradientTransformation
    frozen: Callable[[], Any]
    variables: dict[str, Any]
    batches: Callable[[int], Batches]
    directory: epath.Path
    probe: Probe | None = None
    batch_shapes: Callable[[], list[BatchShapes]] = list

    def compiled(
        self, frozen: Any, shardings: Any, mesh: jax.sharding.Mesh, config: Config
    ) -> flops.CountedStep:
        """Returns the step of a run, which donates its state.

        `frozen` is from :attr:`frozen`, `shardings` from :func:`first_state`.
        """
        step = self.make_step(self.optimizer)
        if config.faults.non_finite == "skip":
            step = non_finite.skipping(step)
        return flops.CountedStep(
            jax.jit(
                step,
                donate_argnums=1,
                out_shardings=(shardings, meshes.replicated(mesh)),
            ),
            frozen,
            mesh,
            config.model.compute_dtype,
        )


def train(job: Job, mesh: jax.sharding.Mesh, config: Config) -> dict[str, Any]:
    """Trains to the plan's last step, from the last checkpoint if there is one.

    Returns:
      A summary: `steps` and `images_seen` over all starts, `seconds_before` this
      start, `losses` of this start's last step, and `skipped_steps`, if any.

    Raises:
      ValueError: (a subclass) a checkpoint does not fit, or saves fail.
      NonFiniteLossError: a loss or gradient is not finite.
    """
    started, section, faults = time.monotonic(), config.log, config.faults
    plan, directory, frozen = job.plan, job.directory, job.frozen()
    state, shardings = first_state(job.variables, job.optimizer, mesh, config.mesh.fsdp)
    seconds_before, skipped = 0.0, []
    with (
        Checkpoints(
            directory / "checkpoints",
            every_steps=section.checkpoint_every_steps,
            keep=section.keep_checkpoints,
        ) as checkpoints,
        Logs(
            directory,
            title=directory.name,
            profile_steps=section.profile_steps,
            plain_seconds=section.progress_seconds,
        ) as logs,
        contextlib.ExitStack() as stack,
    ):
        if restored := checkpoints.restore_latest(state):
            state, meta = restored
            seconds_before = float(meta["seconds"])
            skipped = [int(number) for number in meta.get("skipped_steps", [])]
            logs.message(f"resumes at step {int(state.step)}")
        else:
            # Compiles the checksums now: the first save would stop training for it.
            checksums.compute(state_items.fields(state))
        first_step = int(state.step)
        if jax.process_index() == 0:
            incidents.set_aside(directory, first_step)
        logs.parameters(state.params)
        logs.expect(first_step, plan.num_steps)
        # The stack closes the copies to devices first, then the loader.
        host_batches = stack.enter_context(contextlib.closing(job.batches(first_step)))
        on_devices = stack.enter_context(
            contextlib.closing(meshes.prefetch(mesh, host_batches))
        )
        counted = job.compiled(frozen, shardings, mesh, config)
        guard = non_finite.NonFiniteSteps(
            directory,
            host_batches.drawn,
            faults.max_skipped_steps if faults.non_finite == "skip" else 0,
            skipped,
        )
        loop.train(
            state,
            counted,
            on_devices,
            Span(
                first_step, plan.num_steps, plan.global_batch_size, section.every_steps
            ),
            checkpoints=checkpoints,
            logs=logs,
            loading=host_batches.account,
            rates=counted.rates,
            meta=lambda: {
                "seconds": seconds_before + time.monotonic() - started,
                "skipped_steps": guard.skipped,
            },
            non_finite=guard,
            max_failed_saves=faults.max_failed_saves,
        )
    return {
        "steps": plan.num_steps,
        "images_seen": plan.num_steps * plan.global_batch_size,
        "seconds_before": seconds_before,
        "losses": logs.losses,
        **({"skipped_steps": guard.skipped} if guard.skipped else {}),
    }


def trained(stage: Artifact) -> dict[str, Any]:
    """Reads the variables of a finished training stage, as numpy arrays.

    Raises:
      ArtifactError: its summary cannot be read.
      CheckpointError: it has no checkpoint.
      DamagedError: the checkpoint of the last step is gone or damaged.
    """
    last_step = stage.summary()["steps"]
    return load_params(stage.directory / "checkpoints", last_step=last_step)


def first_state(
    variables: dict[str, Any],
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    fsdp: str,
) -> tuple[train_state.TrainState, Any]:
    """Returns the state before the first step, and its shardings."""

    def create(params: Any, batch_stats: Any) -> train_state.TrainState:
        return train_state.create(params, optimizer, batch_stats)

    arrays = (variables["params"], variables.get("batch_stats", {}))
    shapes = jax.eval_shape(create, *arrays)
    shardings = meshes.shard_largest_axis(mesh, shapes, axis=fsdp)
    placed = meshes.place(arrays, (shardings.params, shardings.batch_stats))
    return meshes.compute(create, *placed, shardings=shardings), shardings
