"""How the arrays that were saved differ from those that a run has."""

import difflib
from typing import Any

import jax
import numpy as np

from vl_ltr_jax.runtime.errors import UserError

_SHOWN = 12


class MisfitError(UserError):
    """A checkpoint has other arrays than the run."""


def check(saved_tree: Any, wanted_tree: Any, where: str) -> None:
    """Raises MisfitError if two trees differ, see :func:`between`.

    Args:
      saved_tree: of leaves with a shape and a dtype.
      wanted_tree: the same.
      where: begins the message.
    """
    if differences := between(saved_tree, wanted_tree):
        raise MisfitError(
            f"{where} does not fit this run in {differences}\nResume with the "
            "configuration that wrote it, or use another workdir."
        )


def between(saved_tree: Any, wanted_tree: Any) -> str:
    """What differs, in lines, or nothing.

    Args:
      saved_tree: of leaves with a shape and a dtype.
      wanted_tree: the same.

    Returns:
      The number of arrays that are missing, too many, or of another shape or dtype, and
      the first of them with the nearest name.
    """
    saved, wanted = _describe(saved_tree), _describe(wanted_tree)
    differences = [
        f"{name}: saved {saved[name]}, the run has {wanted[name]}"
        for name in wanted
        if name in saved and saved[name] != wanted[name]
    ]
    for name in wanted.keys() - saved.keys():
        near = difflib.get_close_matches(name, saved.keys() - wanted.keys(), n=1)
        hint = f" (the nearest saved name is {near[0]})" if near else ""
        differences.append(f"{name}: the run has {wanted[name]}, not saved{hint}")
    differences += [
        f"{name}: saved {saved[name]}, not in the run"
        for name in saved.keys() - wanted.keys()
    ]
    if not differences:
        return ""
    more = len(differences) - _SHOWN
    return (
        f"{len(differences)} arrays:\n  "
        + "\n  ".join(sorted(differences)[:_SHOWN])
        + (f"\n  and {more} more" if more > 0 else "")
    )


def _describe(tree: Any) -> dict[str, str]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (
            f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"
        )
        for path, leaf in leaves
    }
