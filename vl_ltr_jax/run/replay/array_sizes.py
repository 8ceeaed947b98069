"""How large the numbers of a tree of arrays are, and which are none."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

HUGE = 1e4  # no parameter or statistic of a network that learns is as large


class ArraySize(NamedTuple):
    """Of one array.

    Attributes:
      not_finite: how many of its numbers are NaN or infinite.
      total: how many it has.
      largest: magnitude of the others.
    """

    not_finite: int
    total: int
    largest: float

    @property
    def fine(self) -> bool:
        """Whether all are finite and none is huge."""
        return not self.not_finite and self.largest <= HUGE


def reduced(tree: Any) -> list[tuple[Int[Array, ""], Float[Array, ""]]]:
    """Counts of what is not finite, and largest magnitudes, leaf by leaf."""

    def leaf_sizes(leaf: Array) -> tuple[Array, Array]:
        finite = jnp.isfinite(leaf)
        magnitudes = jnp.where(finite, jnp.abs(leaf), 0).astype(jnp.float32)
        return jnp.sum(~finite), jnp.max(magnitudes, initial=0.0)

    return [leaf_sizes(leaf) for leaf in jax.tree.leaves(_inexact(tree))]


def named(tree: Any, sizes: Any) -> dict[str, ArraySize]:
    """Sizes under the paths `a/b/c` of their arrays.

    Args:
      tree: of the arrays, or their shapes.
      sizes: what :func:`reduced` gave of them, fetched or not.
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


def of(tree: Any) -> dict[str, ArraySize]:
    """Sizes of all arrays of a tree that hold no integers, under their paths."""
    return named(tree, jax.jit(reduced)(tree))


def _inexact(tree: Any) -> Any:
    return jax.tree.map(
        lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jnp.inexact) else None, tree
    )
