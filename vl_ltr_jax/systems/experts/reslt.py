"""ResLT: residual branches for rarer classes (Cui et al., TPAMI 2022).

Losses and rules as pure functions. No configuration runs them yet.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

_FLOOR = 1e-7  # added to probabilities before their logarithm, as in the authors' code


def frequency_ranks(train_counts: Int[np.ndarray, "C"]) -> Int[np.ndarray, "C"]:
    """Returns each class's rank, 0 for the rarest; equal counts in order of class.

    Differs from ResLT: that order is stable, theirs is an accident of the sort.
    """
    ranks = np.empty(len(train_counts), np.int64)
    ranks[np.argsort(train_counts, kind="stable")] = np.arange(len(train_counts))
    return ranks


def reslt(
    logits: Sequence[Float[Array, "B C"]],
    labels: Int[Array, " B"],
    cuts: Sequence[int],
    *,
    beta: float,
    smoothing: float = 0.0,
    floors_fusion: bool = True,
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """Returns the loss, that of the summed logits, and that of the single branches.

    Args:
      logits: of the branches for all classes, for rarer and for the rarest ones, as
        far as they learn. Columns are ranks of :func:`frequency_ranks`.
      labels: ranks of the images' classes.
      cuts: the first rank that each branch after the first leaves out.
      beta: share of the single branches' loss.
      smoothing: share of the target that all other classes divide.
      floors_fusion: False for an ordinary cross entropy of the sum (iNaturalist).
    """
    targets = jax.nn.one_hot(labels, logits[0].shape[1])
    spread = smoothing / (logits[0].shape[1] - 1)
    targets = targets * (1 - smoothing - spread) + spread

    def floored(scores: Array) -> Array:
        return -jnp.sum(targets * jnp.log(jax.nn.softmax(scores) + _FLOOR), axis=1)

    total = sum(logits[1:], start=logits[0])
    plain = -jnp.sum(targets * jax.nn.log_softmax(total), axis=1)
    fusion = jnp.mean(floored(total) if floors_fusion else plain)
    limits = (logits[0].shape[1], *cuts)
    # One denominator for all branches: an image of the rarest classes counts thrice.
    masks = jnp.stack([(labels < limit).astype(jnp.float32) for limit in limits])
    terms = jnp.stack([floored(branch) for branch in logits])
    single = jnp.sum(masks * terms) / jnp.sum(masks)
    return (1 - beta) * fusion + beta * single, fusion, single
