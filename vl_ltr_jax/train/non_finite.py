"""Steps whose loss or gradient is NaN or infinite: recorded for replay, or skipped.

The inputs of such a step are kept in `workdir/STAGE/non_finite/`, for
`python -m vl_ltr_jax.replay`. A skipped step leaves parameters and moments unchanged;
only the step number advances. Not in the paper; VL-LTR's code stops at a loss that is
not finite.
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
from vl_ltr_jax.train.state import Batch, Metrics, Step, TrainState


class NonFiniteLossError(UserError, FloatingPointError):
    """A metric of a training step became NaN or infinite."""


def skipping(step: Step) -> Step:
    """Returns a step that changes nothing if one of its metrics is not finite."""

    def guarded(
        frozen: Any, state: TrainState, batch: Batch
    ) -> tuple[TrainState, Metrics]:
        after, metrics = step(frozen, state, batch)
        finite = jnp.all(jnp.isfinite(jnp.stack([*map(jnp.float32, metrics.values())])))
        before = dataclasses.replace(state, step=after.step)
        chosen = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), after, before
        )
        return chosen, metrics

    return guarded


@dataclasses.dataclass
class NonFiniteSteps:
    """The steps of one stage that were not finite.

    Attributes:
      directory: of the stage; None records nothing.
      drawn: from a number of finished steps to the draw of the next step.
      max_skipped: limit of skipped steps; 0 stops at the first.
      skipped: numbers of the skipped steps, over all starts.
    """

    directory: epath.Path | None = None
    drawn: Callable[[int], BatchDraw] | None = None
    max_skipped: int = 0
    skipped: list[int] = dataclasses.field(default_factory=list)

    def record(
        self, step: int, values: Mapping[str, float], saved: int | None, place: str
    ) -> str:
        """Records a step that is not finite, and returns a warning if it is skipped.

        `saved` is the step of the last checkpoint, in the directory `place`.

        Raises:
          NonFiniteLossError: no further step may be skipped.
        """
        names = incidents.not_finite(values)
        fault = ", ".join(f"{name} is {values[name]}" for name in names)
        note = self._write(step, values, names, saved)
        self.skipped.append(step)
        limit = self.max_skipped
        if len(self.skipped) <= limit:
            count = f"{len(self.skipped)} of at most {limit}"
            return f"step {step} is skipped: {fault} ({count}){note}"
        before, remedy = "", "faults.non_finite=skip"
        if limit:
            before = f", after {limit} skipped steps (faults.max_skipped_steps={limit})"
            remedy = "a larger faults.max_skipped_steps"
        checkpoint = f"step {saved} in {place}" if saved else "none"
        raise NonFiniteLossError(
            f"at step {step} {fault}{before}; the last good checkpoint is {checkpoint}"
            f"{note}. Lower the learning rate, lengthen the warm-up, or compute in "
            f"float32, in a new --workdir; or skip such steps with --config.{remedy}"
        )

    def _write(
        self,
        step: int,
        values: Mapping[str, float],
        names: list[str],
        saved: int | None,
    ) -> str:
        """Writes the incident on process 0, and returns a note of its path."""
        if self.directory is None or self.drawn is None:
            return ""
        path = incidents.path_of(self.directory, step)
        if jax.process_index() == 0:
            drawn = self.drawn(step - 1)
            sentences = [] if drawn.sentences is None else drawn.sentences.tolist()
            incident = incidents.Incident(
                step,
                names,
                {name: incidents.number(value) for name, value in values.items()},
                drawn.images.tolist(),
                sentences,
                saved,
                list(self.skipped),
                incidents.devices(jax.devices()),
            )
            try:
                incident.write(path)
            except OSError as error:  # a full disk must not hide the fault itself
                return f". Its batch is not kept in {path}: {error.strerror or error}"
        workdir = shlex.quote(os.fspath(self.directory.parent))
        return (
            f". Its batch is kept in {path}: `python -m vl_ltr_jax.replay "
            f"--workdir={workdir}` looks at it"
        )
