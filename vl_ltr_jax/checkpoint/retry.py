"""Saves of a training stage, of which some may fail: disks fill up and are emptied.

A save that fails is told of, training goes on, and the next one is tried when it is
due. The end of a stage is tried until it is on the disk.
"""

from collections.abc import Callable, Mapping
from typing import Any

from vl_ltr_jax.checkpoint.manager import Checkpoints
from vl_ltr_jax.checkpoint.restore import CheckpointError
from vl_ltr_jax.runtime.preemption import Request

RETRY_SECONDS = 30.0


class Saves:
    """Counts the failures, and stops at the limit of the configuration."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        *,
        warn: Callable[[str], None] = lambda text: None,
        max_failures: int = 0,
    ) -> None:
        """Starts at none.

        Args:
          checkpoints: of the stage.
          warn: is given a line for each failure.
          max_failures: in a row, with which training stops; 0 for no limit.
        """
        self._checkpoints, self._warn = checkpoints, warn
        self._max_failures = max_failures
        self._failures, self._pending = 0, False

    def save(self, step: int, state: Any, meta: Mapping[str, Any]) -> None:
        """Starts a save; how it ended, the next call tells.

        Args:
          step: the number of steps done.
          state: may be donated once this returns.
          meta: what to save beside it.

        Raises:
          CheckpointError: too many have failed in a row.
        """
        self.settle()
        try:
            self._checkpoints.save(step, state, meta)
            self._pending = True
        except CheckpointError as error:
            self._failed(error)

    def settle(self) -> bool:
        """Waits for the save that is being written; tells whether it is on the disk.

        Raises:
          CheckpointError: too many have failed in a row.
        """
        pending, self._pending = self._pending, False
        try:
            self._checkpoints.wait()
        except CheckpointError as error:
            self._failed(error)
            return False
        if pending:
            self._failures = 0
        return True

    def finish(
        self,
        step: int,
        state: Any,
        meta: Callable[[], Mapping[str, Any]],
        asked: Request,
    ) -> bool:
        """Saves the end of training, and tries again until it is on the disk.

        Args:
          step: the number of steps done.
          state: the last one.
          meta: asked for what to save beside it.
          asked: a request to stop ends the tries.

        Returns:
          Whether it is saved; if not, there was a request to stop.

        Raises:
          CheckpointError: too many have failed in a row.
        """
        while True:
            self.save(step, state, meta())
            self.settle()
            if self._checkpoints.latest_step == step:
                return True
            self._warn(f"the end is not saved; trying again in {RETRY_SECONDS:.0f} s")
            if asked.wait(RETRY_SECONDS):
                return False

    def _failed(self, error: CheckpointError) -> None:
        self._failures += 1
        if self._max_failures and self._failures >= self._max_failures:
            raise CheckpointError(
                f"{error} (faults.max_failed_saves={self._max_failures} reached)"
            ) from error
        latest = self._checkpoints.latest_step
        kept = "there is none yet" if latest is None else f"the last is step {latest}"
        self._warn(f"{error}; {kept}. Training goes on, and tries again when it is due")
