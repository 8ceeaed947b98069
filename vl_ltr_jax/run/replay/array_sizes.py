"""Magnitudes of the arrays of a tree, and counts of numbers that are not finite."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


class ArraySize(NamedTuple):
    """The size of one array's numbers.

    Attributes:
      not_finite: count of NaN and infinite numbers.
      total: count of all numbers.
      largest: magnitude of the finite numbers.
    """

    not_finite: int
    total: int
    largest: float


def reduce(tree: Any) -> list[tuple[Int[Array, ""], Float[Array, ""]]]:
    """Returns counts of what is not finite, and largest magnitudes, leaf by leaf."""

    def leaf_sizes(leaf: Array) -> tuple[Array, Array]:
        finite = jnp.isfinite(leaf)
        magnitudes = jnp.where(finite, jnp.abs(leaf), 0).astype(jnp.float32)
        return jnp.sum(~finite), jnp.max(magnitudes, initial=0.0)

    return [leaf_sizes(leaf) for leaf in jax.tree.leaves(_inexact(tree))]


def named(tree: Any, sizes: Any) -> dict[str, ArraySize]:
    """Returns sizes under the paths `a/b/c` of their arrays.

    Args:
      tree: arrays, or their shapes.
      sizes: from :func:`reduce`.
    """
    paths, _ = jax.tree_util.tree_flatten_with_path(_inexact(tree))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): ArraySize(
            int(wrong), int(np.prod(leaf.shape)), float(largest)
        )
        for (path, leaf), (wrong, largest) in zip(
            paths, jax.device_get(sizes), strict=True
        )
    }


def measure(tree: Any) -> dict[str, ArraySize]:
    """Measures all arrays of floating-point numbers in a tree."""
    return named(tree, jax.jit(reduce)(tree))


def _inexact(tree: Any) -> Any:
    return jax.tree.map(
        lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jnp.inexact) else None, tree
    )
