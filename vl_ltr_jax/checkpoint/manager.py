"""Training states on disk, through Orbax: asynchronous saves, strict restores.

A checkpoint is a directory named by its step with three items: `model` (params and
batch_stats, all that a later stage reads), `training` (every other field of the
state) and `meta` (JSON: a mapping of the caller's, and checksums of the arrays). Saves
are committed whole or not at all. Orbax casts a restored array to the dtype asked for
without a word, so shapes and dtypes are compared before a restore. It reads damaged
arrays without a word too, so checksums are compared after it.
"""

import contextlib
import functools
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import LatestN

from vl_ltr_jax.checkpoint import checksums, state_items
from vl_ltr_jax.checkpoint.orbax_messages import first_line, reason
from vl_ltr_jax.checkpoint.restore import (
    CheckpointError,
    PathLike,
    State,
    newest_sound,
    open_manager,
)
from vl_ltr_jax.logs import console
from vl_ltr_jax.runtime import mesh as meshes

_MAX_ERRORS_OF_A_SAVE = 20
_UNFINISHED, _ASIDE = "*.orbax-checkpoint-tmp*", "unreadable-"


class Checkpoints:
    """The checkpoints of one stage; a context manager that waits for the last save."""

    def __init__(self, directory: PathLike, *, every_steps: int, keep: int = 3):
        """Opens or creates the directory.

        Args:
          directory: a path or a bucket's URL.
          every_steps: `due` is true at multiples of this.
          keep: number of the newest checkpoints that stay on disk.

        Raises:
          CheckpointError: the directory cannot be made.
        """
        self._every_steps, self._keep = every_steps, keep
        self._open = functools.partial(
            open_manager, directory, preservation_policy=LatestN(keep)
        )
        self._has_failed = False
        try:
            self._manager = self._open(cleanup_tmp_directories=True)
        except OSError as error:
            raise CheckpointError(
                f"cannot open {directory}: {reason(error)}"
            ) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        try:
            with self._writing():
                self._manager.close()
        except CheckpointError as failure:
            if error is None:
                raise
            console.warn(str(failure))  # the first error is the one to raise
        if self._has_failed:
            # A thread of the failed save may write after the first sweep: on a busy
            # machine a test found its directory at the end, once in 3,437 runs.
            self._sweep()

    @property
    def directory(self) -> str:
        """Path of the checkpoints."""
        return str(self._manager.directory)

    @property
    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, one being written included."""
        return max(self._manager.all_steps(), default=None)

    def due(self, step: int) -> bool:
        """Returns True if the interval calls for a checkpoint at this step."""
        return step % self._every_steps == 0

    def reached_preemption(self, step: int) -> bool:
        """Returns True if the cluster has announced that it will stop this job.

        True in every process at the same step, once one of them has received SIGTERM;
        always False unless `jax.distributed` is initialised.
        """
        return bool(self._manager.reached_preemption(step))

    def save(
        self, step: int, state: Any, meta: Mapping[str, Any] | None = None
    ) -> None:
        """Starts writing a checkpoint; the state may be donated once this returns.

        Args:
          step: number of steps done. A step already saved is left as it is.
          state: dataclass of array trees with a field `params`.
          meta: JSON of the caller, such as the configuration.

        Raises:
          CheckpointError: this save, or the one before it, could not be written.
        """
        if step in self._manager.all_steps():
            return
        model, training = state_items.split(state)
        record = checksums.record(state_items.fields(state), meta or {})
        args = ocp.args.Composite(
            model=ocp.args.StandardSave(model),
            training=ocp.args.StandardSave(training),
            meta=ocp.args.JsonSave(record),
        )
        with self._writing():
            self._manager.save(step, force=True, args=args)

    def wait(self) -> None:
        """Blocks until every save is committed, in all processes or in no process.

        Raises:
          CheckpointError: one could not be written; its partial directory is deleted.
        """
        failure: CheckpointError | None = None
        try:
            with self._writing():
                self._manager.wait_until_finished()
        except CheckpointError as error:
            failure = error
        if meshes.in_every_process(failure is None):
            return
        self._reopen()
        raise failure or CheckpointError(
            f"another process cannot write its part of a checkpoint to {self.directory}"
        )

    def _reopen(self) -> None:
        """Replaces the manager of a failed save, which may report it at the next."""
        for _ in range(_MAX_ERRORS_OF_A_SAVE):
            with contextlib.suppress(Exception):  # each call raises one more
                self._manager.close()
                break
        self._manager = self._open()
        self._has_failed = True
        self._sweep()

    def _sweep(self) -> None:
        """Removes partial directories of failed saves, while no save is under way."""
        for _ in range(_MAX_ERRORS_OF_A_SAVE if jax.process_index() == 0 else 0):
            with contextlib.suppress(OSError):  # a thread may still write there
                for unfinished in self._manager.directory.glob(_UNFINISHED):
                    unfinished.rmtree()
                break
            time.sleep(0.1)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax and TensorStore raise many kinds
            raise CheckpointError(
                f"cannot write a checkpoint to {self.directory}: {reason(error)}; "
                "those written before are whole"
            ) from error

    def restore_latest(self, template: State) -> tuple[State, dict[str, Any]] | None:
        """Reads the newest checkpoint that is readable and is what was saved.

        Warns about newer ones, and moves them aside, to `unreadable-STEP`.

        Args:
          template: state of the same structure: arrays or `ShapeDtypeStruct`s, whose
            shardings the restored arrays take.

        Returns:
          The state and its meta, or None if no checkpoint exists.

        Raises:
          CheckpointError: structure, shapes or dtypes are not the template's, or all
            checkpoints are unreadable.
        """
        self.wait()
        steps = self._manager.all_steps()
        state, meta, failures = newest_sound(self._manager, steps, template)
        if state is None:
            return None
        self._set_aside(failures)
        for old in sorted(self._manager.all_steps())[: -self._keep]:
            self._manager.delete(old)  # a kill was faster than Orbax
        return state, meta

    def _set_aside(self, unreadable: Mapping[int, Exception]) -> None:
        """Renames checkpoints, so that this run can save these steps again."""
        if not unreadable:
            return
        for step, error in unreadable.items() if jax.process_index() == 0 else ():
            aside = self._manager.directory / f"{_ASIDE}{step}"
            aside.rmtree(missing_ok=True)
            (self._manager.directory / str(step)).rename(aside)
            console.warn(
                f"checkpoint {step} in {self.directory} cannot be read, and is now "
                f"{aside.name}; an older one is taken: {first_line(error)}"
            )
        meshes.in_every_process(True)
        self._manager.reload()
