"""Training states on disk, through Orbax: asynchronous saves, strict restores.

A checkpoint is a directory named by its step with three items: `model` (params and
batch_stats, all that a later stage reads), `training` (every other field of the
state) and `meta` (JSON: a mapping of the caller's, and the arrays' checksums). Saves
are committed whole or not at all. Orbax casts a restored array to the dtype asked for
without a word, so shapes and dtypes are compared before anything is read; it reads
damaged arrays without a word too, so checksums are compared after.
"""

import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import LatestN

from vl_ltr_jax.checkpoint import checksums, mismatch, orbax_messages, state_items
from vl_ltr_jax.checkpoint.checksums import Record
from vl_ltr_jax.checkpoint.mismatch import MisfitError
from vl_ltr_jax.checkpoint.orbax_messages import first_line, reason
from vl_ltr_jax.logs import console
from vl_ltr_jax.runtime import errors
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.runtime.errors import UserError

HANDLERS = {
    "model": ocp.StandardCheckpointHandler,
    "training": ocp.StandardCheckpointHandler,
    "meta": ocp.JsonCheckpointHandler,
}

_MOST_FAULTS_OF_A_SAVE = 20
_UNFINISHED, _ASIDE = "*.orbax-checkpoint-tmp*", "unreadable-"

State = TypeVar("State")
PathLike = str | os.PathLike[str]


class CheckpointError(UserError):
    """A checkpoint is absent, unreadable, of another model, or cannot be written."""


class DamagedError(CheckpointError):
    """A checkpoint in a directory cannot be read, or is not what was saved."""

    def __init__(self, fault: str, directory: epath.Path) -> None:
        """Binds what is wrong, and where."""
        super().__init__(
            f"{fault}. To make it again from the checkpoint before it, move "
            f"artifact.json out of {directory.parent}, and the directories of the "
            "stages after it elsewhere"
        )
        self.fault, self.directory = fault, directory


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
            _open, directory, preservation_policy=LatestN(keep)
        )
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
                state, record = _restore(self._manager, step, template)
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


def restore_up_to(
    directory: PathLike, step: int, template: State
) -> tuple[State, dict[str, Any]] | None:
    """Reads the newest readable checkpoint of at most a step, and changes nothing.

    Args:
        directory: the checkpoints of a stage.
        step: the last one that will do.
        template: see :meth:`Checkpoints.restore_latest`.

    Returns:
        The state and its meta, or None where there is no such checkpoint.

    Raises:
        CheckpointError: another structure, shape or dtype than the template's, or
            checkpoints of which none can be read.
    """
    if not epath.Path(directory).is_dir():
        return None
    with _open(directory, read_only=True) as manager:
        failure: Exception | None = None
        found = sorted(saved for saved in manager.all_steps() if saved <= step)
        for saved in reversed(found):
            try:
                state, record = _restore(manager, saved, template)
                sums = checksums.of(state_items.fields(state))
                if not (damage := checksums.damage(sums, record.checksums)):
                    return state, record.meta
                failure = ValueError(damage)
            except MisfitError:
                raise
            except Exception as error:  # Orbax and TensorStore raise many kinds
                if fault := errors.lack(error):
                    raise fault from error
                failure = error
        if failure is None:
            return None
        raise CheckpointError(
            f"none of the checkpoints {found} in {directory} can be read; the "
            f"last says: {first_line(failure)}"
        ) from failure


def load_params(
    directory: PathLike, template: Any = None, last_step: int | None = None
) -> dict[str, Any]:
    """Reads the model of the newest checkpoint, for the stage that comes next.

    Args:
        directory: the checkpoints of the finished stage.
        template: what is expected, `{'params': ..., 'batch_stats': ...}` of arrays or
            `ShapeDtypeStruct`s; anything is accepted when None.
        last_step: of the stage; its checkpoint is the one to be read.

    Returns:
        `{'params': ..., 'batch_stats': ...}` of numpy arrays, whole in every process;
        `batch_stats` is absent where the model has none.

    Raises:
        DamagedError: one that cannot be read, is not what was saved, or not the last.
        CheckpointError: no checkpoint, or another structure, shape or dtype than the
            template's.
    """
    path = epath.Path(directory)
    if not path.is_dir():
        raise CheckpointError(
            f"no checkpoints: {path} is not a directory. Move the stage's directory "
            "and those of the stages after it elsewhere, and they are made again"
        )
    with _open(path, ("model", "meta"), create=False) as manager:
        steps = manager.all_steps()
        if not steps:
            raise CheckpointError(f"no checkpoint in {path}: has the stage finished?")
        where = f"checkpoint {max(steps)} in {path}"
        try:
            if last_step not in (None, max(steps)):
                raise ValueError(f"that of step {last_step}, the last, is gone")
            tree = manager.item_metadata(max(steps)).model.tree
            if template is not None:
                mismatch.check(tree, {"batch_stats": {}, **template}, where)
            blank = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), tree)
            items = manager.restore(
                max(steps),
                args=ocp.args.Composite(
                    model=ocp.args.StandardRestore(blank), meta=ocp.args.JsonRestore()
                ),
            )
            model, saved = items.model, Record.of(items.meta).checksums
            if damage := checksums.damage(checksums.of(model), saved):
                raise ValueError(damage)
        except MisfitError:
            raise
        except Exception as error:  # Orbax and TensorStore raise many kinds
            fault = f"{where} cannot be read: {first_line(error)}"
            raise errors.lack(error) or DamagedError(fault, path) from error
    return {name: value for name, value in model.items() if value}


def _open(
    directory: PathLike, items: Iterable[str] = tuple(HANDLERS), **options: Any
) -> ocp.CheckpointManager:
    path = os.fspath(directory)
    orbax_messages.quieten()
    return ocp.CheckpointManager(
        path if "://" in path else os.path.abspath(path),
        options=ocp.CheckpointManagerOptions(**options),
        item_handlers={name: HANDLERS[name]() for name in items},
    )


def _restore(
    manager: ocp.CheckpointManager, step: int, template: Any
) -> tuple[Any, Record]:
    model, training = map(state_items.abstract, state_items.split(template))
    saved = manager.item_metadata(step)
    mismatch.check(
        {**saved.model.tree, **saved.training.tree},
        {**model, **training},
        f"checkpoint {step} in {manager.directory}",
    )
    items = manager.restore(
        step,
        args=ocp.args.Composite(
            model=ocp.args.StandardRestore(model),
            training=ocp.args.StandardRestore(training),
            meta=ocp.args.JsonRestore(),
        ),
    )
    state = dataclasses.replace(template, **items.model, **items.training)
    return state, Record.of(items.meta)
