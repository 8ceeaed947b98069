"""Differences between the arrays of a checkpoint and those of a run."""

import difflib
from typing import Any

import jax
import numpy as np

from vl_ltr_jax.runtime.errors import UserError

_MAX_LISTED = 12


class MisfitError(UserError):
    """A checkpoint has other arrays than the run."""


def check(saved_tree: Any, expected_tree: Any, where: str) -> None:
    """Compares names, shapes and dtypes of two trees.

    Args:
      saved_tree: leaves with a shape and a dtype.
      expected_tree: the same.
      where: begins the message.

    Raises:
      MisfitError: names the first differences; a missing array with the nearest name.
    """
    saved, expected = _describe(saved_tree), _describe(expected_tree)
    missing, additional = expected.keys() - saved.keys(), saved.keys() - expected.keys()
    differences = [
        f"{name}: saved {saved[name]}, the run has {expected[name]}"
        for name in expected.keys() & saved.keys()
        if saved[name] != expected[name]
    ]
    for name in missing:
        near = difflib.get_close_matches(name, additional, n=1)
        hint = f" (the nearest saved name is {near[0]})" if near else ""
        differences.append(f"{name}: the run has {expected[name]}, not saved{hint}")
    differences += [f"{n}: saved {saved[n]}, not in the run" for n in additional]
    if differences:
        lines = sorted(differences)[:_MAX_LISTED]
        if more := differences[_MAX_LISTED:]:
            lines.append(f"and {len(more)} more")
        raise MisfitError(
            f"{where} does not fit this run in {len(differences)} arrays:\n  "
            + "\n  ".join(lines)
            + "\nResume with the configuration that wrote it, or use another workdir."
        )


def _describe(tree: Any) -> dict[str, str]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (
            f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"
        )
        for path, leaf in leaves
    }
