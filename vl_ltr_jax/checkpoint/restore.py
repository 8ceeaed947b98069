"""Restoring of states and parameters from Orbax checkpoints."""

import dataclasses
import os
from collections.abc import Iterable
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from vl_ltr_jax.checkpoint import checksums, mismatch, orbax_messages, state_items
from vl_ltr_jax.checkpoint.checksums import Record
from vl_ltr_jax.checkpoint.mismatch import MisfitError
from vl_ltr_jax.checkpoint.orbax_messages import first_line
from vl_ltr_jax.runtime import errors
from vl_ltr_jax.runtime.errors import UserError

HANDLERS = {
    "model": ocp.StandardCheckpointHandler,
    "training": ocp.StandardCheckpointHandler,
    "meta": ocp.JsonCheckpointHandler,
}
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
    with open_manager(directory, read_only=True) as manager:
        failure: Exception | None = None
        found = sorted(saved for saved in manager.all_steps() if saved <= step)
        for saved in reversed(found):
            try:
                state, record = restore_step(manager, saved, template)
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
    with open_manager(path, ("model", "meta"), create=False) as manager:
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


def open_manager(
    directory: PathLike, items: Iterable[str] = tuple(HANDLERS), **options: Any
) -> ocp.CheckpointManager:
    """Opens a directory of checkpoints.

    Args:
        directory: a path or a bucket's URL.
        items: keys of `HANDLERS`.
        **options: of Orbax's `CheckpointManagerOptions`.
    """
    path = os.fspath(directory)
    orbax_messages.quieten()
    return ocp.CheckpointManager(
        path if "://" in path else os.path.abspath(path),
        options=ocp.CheckpointManagerOptions(**options),
        item_handlers={name: HANDLERS[name]() for name in items},
    )


def restore_step(
    manager: ocp.CheckpointManager, step: int, template: Any
) -> tuple[Any, Record]:
    """Restores a step into the template's structure, and the record beside it.

    Raises:
        MisfitError: a structure, shape or dtype differs from the template's.
    """
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
