"""Steps whose loss or gradient is NaN or infinite: told, kept for replay, or skipped.

What such a step was given is kept in `workdir/STAGE/non_finite/`, for
`python -m vl_ltr_jax.replay`. A step that is skipped leaves parameters and moments as
they were, and only its number passes. Not in the paper; VL-LTR's code stops at a loss
that is not finite.
"""

import dataclasses
import os
import shlex
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from vl_ltr_jax.data.batches.sampler import BatchDraw
from vl_ltr_jax.runtime.errors import UserError
from vl_ltr_jax.train import incidents
from vl_ltr_jax.train.pretrain import Batch, Metrics, Step
from vl_ltr_jax.train.state import TrainState


class NonFiniteLossError(UserError, FloatingPointError):
    """A metric of a training step became NaN or infinite."""


def skipped(step: Step) -> Step:
    """A training step that changes nothing where one of its metrics is not finite.

    Args:
      step: `(frozen, state, batch) -> (state, metrics)`; its metrics have the loss and
        the norm of the gradient.
    """

    def guarded(
        frozen: dict[str, Any], state: TrainState, batch: Batch
    ) -> tuple[TrainState, Metrics]:
        after, metrics = step(frozen, state, batch)
        fine = jnp.all(jnp.isfinite(jnp.stack([*map(jnp.float32, metrics.values())])))
        before = dataclasses.replace(state, step=after.step)
        kept = jax.tree.map(lambda new, old: jnp.where(fine, new, old), after, before)
        return kept, metrics

    return guarded


@dataclasses.dataclass
class NonFiniteSteps:
    """Those of one training stage.

    Attributes:
      directory: of the stage; None keeps nothing.
      drawn: from the number of steps before to the images and sentences of a step.
      max_skipped: how many may be skipped; 0 stops at the first.
      skipped: numbers of those that were, over all starts.
    """

    directory: epath.Path | None = None
    drawn: Callable[[int], BatchDraw] | None = None
    max_skipped: int = 0
    skipped: list[int] = dataclasses.field(default_factory=list)

    def meet(
        self, step: int, values: Mapping[str, float], saved: int | None, where: str
    ) -> str:
        """Keeps what is known of a step that is not finite.

        Args:
          step: its number, from 1.
          values: its metrics, of which one or more are not finite.
          saved: the step of the last checkpoint, if there is one.
          where: the checkpoints are.

        Returns:
          What to tell, where the step is skipped.

        Raises:
          NonFiniteLossError: if no more may be skipped. Names the step, the metrics and
            the last checkpoint, which never has a NaN.
        """
        terms = incidents.not_finite(values)
        told = ", ".join(f"{name} is {values[name]}" for name in terms)
        kept = self._keep(step, values, terms, saved)
        self.skipped.append(step)
        if len(self.skipped) <= self.max_skipped:
            return (
                f"step {step} is skipped: {told} ({len(self.skipped)} of at most "
                f"{self.max_skipped}){kept}"
            )
        many = (
            f", and {self.max_skipped} steps were skipped before "
            f"(faults.max_skipped_steps={self.max_skipped})"
            if self.max_skipped
            else ""
        )
        raise NonFiniteLossError(
            f"at step {step} {told}{many}; the last good checkpoint is "
            + (f"step {saved} in {where}" if saved else "none")
            + f"{kept}. Lower the learning rate, lengthen the warm-up, or compute in "
            "float32, in a new --workdir; or go on past "
            + (
                "more such steps with a larger --config.faults.max_skipped_steps"
                if self.max_skipped
                else "such steps with --config.faults.non_finite=skip"
            )
        )

    def _keep(
        self,
        step: int,
        values: Mapping[str, float],
        terms: list[str],
        saved: int | None,
    ) -> str:
        """Writes the batch of the step on process 0, if it can; says where it is."""
        if self.directory is None or self.drawn is None:
            return ""
        path = incidents.path_of(self.directory, step)
        if jax.process_index() == 0:
            drawn = self.drawn(step - 1)
            sentences = [] if drawn.sentences is None else drawn.sentences.tolist()
            incident = incidents.Incident(
                step,
                terms,
                {name: incidents.number(value) for name, value in values.items()},
                drawn.images.tolist(),
                sentences,
                saved,
                list(self.skipped),
                incidents.devices(jax.devices()),
            )
            try:
                incident.write(path)
            except OSError as error:  # which is no reason to lose what there is to say
                return f". Its batch is not kept in {path}: {error.strerror or error}"
        workdir = os.fspath(self.directory.parent)
        return (
            f". Its batch is kept in {path}: `python -m vl_ltr_jax.replay "
            f"--workdir={shlex.quote(workdir)}` looks at it"
        )
