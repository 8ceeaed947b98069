"""Restoring of states and parameters from Orbax checkpoints."""

import contextlib
import dataclasses
import os
from collections.abc import Iterable
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from vl_ltr_jax.checkpoint import checksums, mismatch, state_items
from vl_ltr_jax.checkpoint.mismatch import MisfitError
from vl_ltr_jax.checkpoint.orbax_messages import first_line
from vl_ltr_jax.runtime import errors
from vl_ltr_jax.runtime import mesh as meshes
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
        """Adds advice to the fault."""
        super().__init__(
            f"{fault}. To make it again from the checkpoint before it, move "
            f"artifact.json out of {directory.parent}, and the directories of the "
            "stages after it elsewhere"
        )
        self.fault, self.directory = fault, directory


def restore_up_to(
    directory: PathLike, step: int, template: State
) -> tuple[State, dict[str, Any]] | None:
    """Reads the newest sound checkpoint of at most a step, and changes nothing.

    Args:
      directory: checkpoints of a stage.
      step: last one that will do.
      template: see :meth:`Checkpoints.restore_latest`.

    Returns:
      The state and its meta, or None if there is no such checkpoint.

    Raises:
      CheckpointError: structure, shapes or dtypes are not the template's, or all
        checkpoints are unreadable.
    """
    if not epath.Path(directory).is_dir():
        return None
    with open_manager(directory, create=False) as manager:
        steps = [saved for saved in manager.all_steps() if saved <= step]
        state, meta, _ = newest_sound(manager, steps, template)
        return None if state is None else (state, meta)


def newest_sound(
    manager: ocp.CheckpointManager, steps: Iterable[int], template: State
) -> tuple[State | None, dict[str, Any], dict[int, Exception]]:
    """Reads the newest of some checkpoints that is readable and is what was saved.

    Returns:
      The state, None without checkpoints; its meta; and errors of newer steps.

    Raises:
      CheckpointError: structure, shapes or dtypes are not the template's, or all
        checkpoints are unreadable.
    """
    failures: dict[int, Exception] = {}
    for step in sorted(steps, reverse=True):
        try:
            state, record = _restore_step(manager, step, template)
        except Exception as error:  # Orbax and TensorStore raise many kinds
            if fault := errors.lack(error):  # the file may be sound
                raise fault from error
            failures[step] = error
        if meshes.in_every_process(step not in failures):
            # All processes compute the checksums together.
            damage = checksums.damage(state_items.fields(state), record)
            if not damage:
                return state, record["meta"], failures
            failures[step] = ValueError(damage)
        failures.setdefault(step, OSError("unreadable in another process"))
    if not failures:
        return None, {}, {}
    newest = failures[max(failures)]
    if isinstance(newest, MisfitError):  # another run, and no damage
        raise newest
    raise CheckpointError(
        f"none of the checkpoints {sorted(failures)} in {manager.directory} can be "
        f"read; the newest says: {first_line(newest)}. Move the directory away to "
        "start the stage afresh"
    ) from newest


def load_params(directory: PathLike, last_step: int | None = None) -> dict[str, Any]:
    """Reads the model of the newest checkpoint, for the next stage.

    Args:
      directory: checkpoints of the finished stage.
      last_step: last step of the stage; its checkpoint must be the newest. None while
        the stage has no summary.

    Returns:
      `{'params': ..., 'batch_stats': ...}` of numpy arrays, whole in every process;
      `batch_stats` is absent if the model has none.

    Raises:
      DamagedError: it cannot be read, is not what was saved, or not the last.
      CheckpointError: there is no checkpoint.
    """
    path = epath.Path(directory)
    if not path.is_dir():
        raise CheckpointError(
            f"no checkpoints: {path} is not a directory. Move the stage's directory "
            "and those of the stages after it elsewhere, and they are made again"
        )
    with open_manager(path, create=False) as manager:
        step = max(manager.all_steps(), default=None)
    if step is None:
        raise CheckpointError(f"no checkpoint in {path}: has the stage finished?")
    where = f"checkpoint {step} in {path}"
    try:
        if last_step not in (None, step):
            raise ValueError(f"that of step {last_step}, the last, is gone")
        model = _load_model(path / str(step))
    except Exception as error:  # Orbax and TensorStore raise many kinds
        fault = f"{where} cannot be read: {first_line(error)}"
        raise errors.lack(error) or DamagedError(fault, path) from error
    return {name: value for name, value in model.items() if value}


def _load_model(path: epath.Path) -> dict[str, Any]:
    """Reads the items `model` and `meta` alone; the others may be damaged."""
    path = epath.Path(os.path.abspath(path)) if "://" not in os.fspath(path) else path
    # A handler of an item: Orbax's managers would warn about the other items.
    handler = ocp.StandardCheckpointHandler()
    with contextlib.closing(handler):
        tree = handler.metadata(path / "model").tree
        blank = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), tree)
        model = handler.restore(path / "model", args=ocp.args.StandardRestore(blank))
    meta = ocp.JsonCheckpointHandler()
    record = _checked(meta.restore(path / "meta", args=ocp.args.JsonRestore()))
    if damage := checksums.damage(model, record):
        raise ValueError(damage)
    return dict(model)


def open_manager(directory: PathLike, **options: Any) -> ocp.CheckpointManager:
    """Opens a directory of checkpoints.

    Args:
      directory: a path or a bucket's URL.
      **options: of Orbax's `CheckpointManagerOptions`.
    """
    path = os.fspath(directory)
    return ocp.CheckpointManager(
        path if "://" in path else os.path.abspath(path),
        options=ocp.CheckpointManagerOptions(**options),
        item_handlers={name: handler() for name, handler in HANDLERS.items()},
    )


def _restore_step(
    manager: ocp.CheckpointManager, step: int, template: Any
) -> tuple[Any, dict[str, Any]]:
    """Restores a step into the template's structure, and the record of the step."""
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
    return state, _checked(items.meta)


def _checked(record: Any) -> dict[str, Any]:
    parts = (record, record["meta"], record["checksums"])
    if not all(isinstance(part, dict) for part in parts):
        raise ValueError("meta is not what was saved")
    return dict(record)
