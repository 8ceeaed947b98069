"""One training stage: make or restore the state, run to the last step, keep the end.

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
from vl_ltr_jax.train.pretrain import Step
from vl_ltr_jax.train.row_probe import Measure


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long a training stage is, and its learning rates by step."""

    num_steps: int
    global_batch_size: int
    schedule: optax.Schedule
    text_schedule: optax.Schedule | None

    @classmethod
    def of(cls, options: settings.Training, num_images: int) -> "Plan":
        """Returns the plan of a stage, with N // batch steps an epoch, at least 1.

        VL-LTR's loader and the loops of cRT and LWS drop the remainder alike.

        Args:
          options: section of the stage.
          num_images: N, the size of the training set, for every sampler.
        """
        steps_per_epoch = max(num_images // options.global_batch_size, 1)

        def schedule(learning_rate: float) -> optax.Schedule:
            return optim.cosine_schedule(
                learning_rate,
                epochs=options.epochs,
                steps_per_epoch=steps_per_epoch,
                warmup_epochs=options.warmup_epochs,
                warmup_learning_rate=options.warmup_learning_rate,
                min_learning_rate=options.min_learning_rate,
                per=options.schedule,
            )

        return cls(
            steps_per_epoch * options.epochs,
            options.global_batch_size,
            schedule(options.learning_rate),
            schedule(options.text_learning_rate)
            if isinstance(options, Finetune) and options.head == "lgr"
            else None,
        )

    @property
    def schedules(self) -> dict[str, optax.Schedule]:
        """The learning rates under their names in the log."""
        if self.text_schedule is None:
            return {"learning_rate": self.schedule}
        return {
            "learning_rate/visual": self.schedule,
            "learning_rate/text": self.text_schedule,
        }


@dataclasses.dataclass(frozen=True)
class Job:
    """A training stage before its first step: all that its steps are made of.

    Attributes:
      plan: length and learning rates.
      make_step: from an optimizer to the stage's pure step.
      optimizer: made for these parameters.
      frozen: gives the arrays that the step reads and never changes, on the devices.
      variables: `params` and, for a ResNet, `batch_stats` to start from.
      batches: from a first step to this process's endless batches.
      directory: where checkpoints and event files go.
      measure: measures what single rows of a batch give, for a look at a step.
    """

    plan: Plan
    make_step: Callable[[optax.GradientTransformation], Step]
    optimizer: optax.GradientTransformation
    frozen: Callable[[], dict[str, Any]]
    variables: dict[str, Any]
    batches: Callable[[int], Batches]
    directory: epath.Path
    measure: Measure | None = None

    def compiled(
        self,
        frozen: dict[str, Any],
        shardings: Any,
        mesh: jax.sharding.Mesh,
        config: Config,
    ) -> flops.CountedStep:
        """The step as it runs, donating its state.

        Args:
          frozen: what :attr:`frozen` gave.
          shardings: of the state, see :func:`first_state`.
          mesh: the devices.
          config: of the run.
        """
        step = self.make_step(self.optimizer)
        if config.faults.non_finite == "skip":
            step = non_finite.skipped(step)
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


def train(
    job: Job,
    mesh: jax.sharding.Mesh,
    config: Config,
    evaluate: loop.Evaluation[train_state.TrainState] | None = None,
    evaluate_every_steps: int | None = None,
) -> dict[str, Any]:
    """Trains to the plan's last step, from a checkpoint where there is one.

    Args:
      job: of the stage.
      mesh: the devices.
      config: of the run: logging, how parameters are split, what products are computed
        in.
      evaluate: called with the state and the steps done; its metrics are logged.
      evaluate_every_steps: interval of `evaluate`, which also runs at the end.

    Returns:
      A summary: `steps` and `images_seen` over all starts, `seconds_before` this
      start, the `losses` of the last step, if this start made it, and
      `skipped_steps`, if there were any.

    Raises:
      ValueError: (a subclass) for a checkpoint that does not fit, or saves that fail.
      NonFiniteLossError: a loss or gradient is not finite.
    """
    started, options, faults = time.monotonic(), config.log, config.faults
    plan, directory, frozen = job.plan, job.directory, job.frozen()
    state, shardings = first_state(job.variables, job.optimizer, mesh, config.mesh.fsdp)
    seconds_before, skipped = 0.0, []
    with (
        Checkpoints(
            directory / "checkpoints",
            every_steps=options.checkpoint_every_steps,
            keep=options.keep_checkpoints,
        ) as checkpoints,
        Logs(
            directory,
            title=directory.name,
            profile_steps=options.profile_steps,
            plain_seconds=options.progress_seconds,
        ) as logs,
        contextlib.ExitStack() as stack,
    ):
        if restored := checkpoints.restore_latest(state):
            state, meta = restored
            seconds_before = float(meta["seconds"])
            skipped = [int(number) for number in meta.get("skipped_steps", [])]
            logs.message(f"resumes at step {int(state.step)}")
        else:
            # Compiles them now: training would stand still for it at the first save.
            checksums.of(state_items.fields(state))
        first_step = int(state.step)
        if jax.process_index() == 0:
            incidents.set_aside(directory, first_step)
        logs.parameters(state.params)
        logs.expect(first_step, plan.num_steps)
        # Closed in the other order: what puts batches on devices, then what makes them.
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
            first_step=first_step,
            num_steps=plan.num_steps,
            checkpoints=checkpoints,
            logs=logs,
            log_every_steps=options.every_steps,
            images_per_step=plan.global_batch_size,
            loading=host_batches.account,
            rates=counted.rates,
            meta=lambda: {
                "seconds": seconds_before + time.monotonic() - started,
                "skipped_steps": guard.skipped,
            },
            evaluate=evaluate,
            evaluate_every_steps=evaluate_every_steps,
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
    """What a finished training stage has left.

    Returns:
      `params` and, for a ResNet, `batch_stats`, of numpy arrays.

    Raises:
      ArtifactError: if its summary cannot be read.
      CheckpointError: if there is no checkpoint; DamagedError, if that of the last step
        is gone or damaged.
    """
    last_step = stage.summary().get("steps")
    return load_params(stage.directory / "checkpoints", last_step=last_step)


def first_state(
    variables: dict[str, Any],
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    fsdp: str,
) -> tuple[train_state.TrainState, Any]:
    """The state before the first step, and where each of its arrays lies."""

    def create(params: Any, batch_stats: Any) -> train_state.TrainState:
        return train_state.create(params, optimizer, batch_stats)

    given = (variables["params"], variables.get("batch_stats", {}))
    shapes = jax.eval_shape(create, *given)
    shardings = meshes.shard_largest_axis(mesh, shapes, axis=fsdp)
    placed = meshes.place(given, (shardings.params, shardings.batch_stats))
    return jax.jit(create, out_shardings=shardings)(*placed), shardings
