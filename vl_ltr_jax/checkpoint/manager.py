"""Training states on disk, through Orbax: asynchronous saves, strict restores.

A checkpoint is a directory named by its step with three items: `model` (params and
batch_stats, all that a later stage reads), `training` (every other field of the
state) and `meta` (JSON: a mapping of the caller's, and the arrays' checksums). Saves
are committed whole or not at all. Orbax casts a restored array to the dtype asked for
without a word, so shapes and dtypes are compared before anything is read; it reads
damaged arrays without a word too, so checksums are compared after.
"""

import contextlib
import functools
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import LatestN

from vl_ltr_jax.checkpoint import checksums, state_items
from vl_ltr_jax.checkpoint.checksums import Record
from vl_ltr_jax.checkpoint.mismatch import MisfitError
from vl_ltr_jax.checkpoint.orbax_messages import first_line, reason
from vl_ltr_jax.checkpoint.restore import (
    CheckpointError,
    PathLike,
    State,
    open_manager,
    restore_step,
)
from vl_ltr_jax.logs import console
from vl_ltr_jax.runtime import errors
from vl_ltr_jax.runtime import mesh as meshes

_MOST_FAULTS_OF_A_SAVE = 20
_UNFINISHED, _ASIDE = "*.orbax-checkpoint-tmp*", "unreadable-"


class Checkpoints:
    """The checkpoints of one stage; a context manager that waits for the last save."""

    def __init__(self, directory: PathLike, *, every_steps: int, keep: int = 3):
        """Opens or creates the directory.

        Args:
            directory: where the checkpoints lie; a path or a bucket's URL.
            every_steps: `due` is true at multiples of this.
            keep: how many of the newest stay on disk.

        Raises:
            ValueError: a count that is not positive.
            CheckpointError: the directory cannot be made.
        """
        if every_steps < 1 or keep < 1:
            raise ValueError(
                f"checkpoints every {every_steps} steps, keeping {keep}: both counts"
                " must be at least 1"
            )
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            with self._writing():
                self._manager.close()
        except CheckpointError as failure:
            if error is None:
                raise
            console.warn(str(failure))  # the first error is the one to tell
        if self._has_failed:
            # A thread of the failed save may have written after the first sweep: on a
            # busy machine a test met its directory at the end, once in 3,437.
            self._sweep()

    @property
    def directory(self) -> str:
        """Where the checkpoints lie."""
        return str(self._manager.directory)

    @property
    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, one being written included."""
        steps = self._manager.all_steps()
        return max(steps) if steps else None

    def due(self, step: int) -> bool:
        """Whether the interval calls for a checkpoint at this step."""
        return step % self._every_steps == 0

    def reached_preemption(self, step: int) -> bool:
        """Whether the cluster has announced that it will stop this job.

        True in every process at the same step, once one of them has received SIGTERM;
        always False unless `jax.distributed` is initialised.
        """
        return bool(self._manager.reached_preemption(step))

    def save(
        self, step: int, state: Any, meta: Mapping[str, Any] | None = None
    ) -> None:
        """Starts writing a checkpoint; the state may be donated once this returns.

        Args:
            step: the number of steps done. A step already saved is left as it is.
            state: a dataclass of array trees with a field `params`.
            meta: whatever JSON can hold: the configuration, the data position.

        Raises:
            CheckpointError: this save, or the one before it, could not be written.
        """
        if step in self._manager.all_steps():
            return
        model, training = state_items.split(state)
        record = Record(dict(meta or {}), checksums.of(state_items.fields(state)))
        args = ocp.args.Composite(
            model=ocp.args.StandardSave(model),
            training=ocp.args.StandardSave(training),
            meta=ocp.args.JsonSave(record.to_json()),
        )
        with self._writing():
            self._manager.save(step, force=True, args=args)

    def wait(self) -> None:
        """Blocks until every save is committed, in all processes or in none.

        Raises:
            CheckpointError: one could not be written; what there is of it is deleted.
        """
        failure: CheckpointError | None = None
        try:
            with self._writing():
                self._manager.wait_until_finished()
        except CheckpointError as error:
            failure = error
        if meshes.in_every_process(failure is None):
            return
        self._start_anew()
        raise failure or CheckpointError(
            f"another process cannot write its part of a checkpoint to {self.directory}"
        )

    def _start_anew(self) -> None:
        """Leaves a failed save behind: its manager might tell of it at the next one."""
        for _ in range(_MOST_FAULTS_OF_A_SAVE):
            with contextlib.suppress(Exception):  # each call tells of one more
                self._manager.close()
                break
        self._manager = self._open()
        self._has_failed = True
        self._sweep()

    def _sweep(self) -> None:
        """Removes partial directories of failed saves, while no save is under way."""
        for _ in range(_MOST_FAULTS_OF_A_SAVE if jax.process_index() == 0 else 0):
            with contextlib.suppress(OSError):  # a thread may be at work there still
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
        """Reads the newest checkpoint that can be read, and is what was saved.

        Others are named in a warning and moved aside, to `unreadable-STEP`.

        Args:
            template: a state of the same structure: arrays or `ShapeDtypeStruct`s,
                whose shardings the restored arrays take.

        Returns:
            The state and its meta, or None where no checkpoint exists.

        Raises:
            CheckpointError: another structure, shape or dtype than the template's, or
                checkpoints of which none can be read.
        """
        self.wait()
        failures: dict[int, Exception] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                state, record = restore_step(self._manager, step, template)
            except Exception as error:  # Orbax and TensorStore raise many kinds
                if fault := errors.lack(error):  # the file may be sound
                    raise fault from error
                failures[step] = error
            if meshes.in_every_process(step not in failures):
                # Of all processes together.
                found = checksums.of(state_items.fields(state))
                if not (damage := checksums.damage(found, record.checksums)):
                    self._set_aside(failures)
                    for old in sorted(self._manager.all_steps())[: -self._keep]:
                        self._manager.delete(old)  # a kill was faster than Orbax
                    return state, record.meta
                failures[step] = ValueError(damage)
            failures.setdefault(step, OSError("unreadable in another process"))
        if not failures:
            return None
        newest = failures[max(failures)]
        if isinstance(newest, MisfitError):  # it is the run that is another
            raise newest
        raise CheckpointError(
            f"none of the checkpoints {sorted(failures)} in {self.directory} can be"
            f" read; the newest says: {first_line(newest)}. Move the directory away to"
            " start the stage afresh"
        ) from newest

    def _set_aside(self, unreadable: Mapping[int, Exception]) -> None:
        """Clears the way for this run to reach, and save, these steps again."""
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
