"""Saves of a training stage, with retries: disks fill up and are emptied.

After a failed save training goes on, and the next save is tried when it is due. The
last save of a stage is tried until it is on the disk.
"""

from collections.abc import Callable, Mapping
from typing import Any

from vl_ltr_jax.checkpoint.manager import Checkpoints
from vl_ltr_jax.checkpoint.restore import CheckpointError
from vl_ltr_jax.runtime.preemption import Request

RETRY_SECONDS = 30.0


class Saves:
    """Saves with a limit of failures in a row."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        *,
        warn: Callable[[str], None] = lambda text: None,
        max_failures: int = 0,
    ) -> None:
        """Binds the checkpoints of a stage.

        Args:
          checkpoints: of the stage.
          warn: receives a line for each failure.
          max_failures: failures in a row that stop training; 0 for no limit.
        """
        self._checkpoints, self._warn = checkpoints, warn
        self._max_failures = max_failures
        self._failures, self._pending = 0, False

    def save(self, step: int, state: Any, meta: Mapping[str, Any]) -> None:
        """Starts a save, after the one before; see :meth:`Checkpoints.save`.

        Raises:
          CheckpointError: too many have failed in a row.
        """
        self.settle()
        try:
            self._checkpoints.save(step, state, meta)
            self._pending = True
        except CheckpointError as error:
            self._fail(error)

    def settle(self) -> bool:
        """Waits for the save under way; returns True if all are on the disk.

        Raises:
          CheckpointError: too many have failed in a row.
        """
        pending, self._pending = self._pending, False
        try:
            self._checkpoints.wait()
        except CheckpointError as error:
            self._fail(error)
            return False
        if pending:
            self._failures = 0
        return True

    def finish(
        self,
        step: int,
        state: Any,
        meta: Callable[[], Mapping[str, Any]],
        stop: Request,
    ) -> bool:
        """Saves the end of training, and tries again until it is on the disk.

        Args:
          step: number of steps done.
          state: the last one.
          meta: makes the mapping to save with it.
          stop: a request to stop ends the tries.

        Returns:
          True if it is saved; False after a request to stop.

        Raises:
          CheckpointError: too many have failed in a row.
        """
        while True:
            self.save(step, state, meta())
            self.settle()
            if self._checkpoints.latest_step == step:
                return True
            self._warn(f"the end is not saved; trying again in {RETRY_SECONDS:.0f} s")
            if stop.wait(RETRY_SECONDS):
                return False

    def _fail(self, error: CheckpointError) -> None:
        self._failures += 1
        if self._max_failures and self._failures >= self._max_failures:
            raise CheckpointError(
                f"{error} (faults.max_failed_saves={self._max_failures} reached)"
            ) from error
        latest = self._checkpoints.latest_step
        last = "there is none yet" if latest is None else f"the last is step {latest}"
        self._warn(f"{error}; {last}. Training goes on, and tries again when it is due")
