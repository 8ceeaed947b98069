"""BBN: a branch for usual and one for reversed sampling (Zhou et al., CVPR 2020).

Losses and rules as pure functions. No configuration runs them yet.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int

# Epochs over which alpha would reach 0, by those of a run, as in the authors' code.
_HORIZONS = {90: 100, 180: 200}


def alpha(epoch: int, epochs: int) -> float:
    """Returns the share of the conventional branch in an epoch, counted from 1.

    It is 1 at the start. Differs from the paper: it ends above 0, since the code takes
    more epochs than it trains.
    """
    return 1 - ((epoch - 1) / _HORIZONS.get(epochs, epochs)) ** 2


def mixed(
    conventional: Float[Array, "B D"], reversed_: Float[Array, "B D"], share: float
) -> Float[Array, "B W"]:
    """Returns the features of both branches; at a share of 1/2 as at test time."""
    return 2 * jnp.concatenate([share * conventional, (1 - share) * reversed_], axis=1)


def bbn(
    logits: Float[Array, "B C"],
    conventional_labels: Int[Array, " B"],
    reversed_labels: Int[Array, " B"],
    share: float,
) -> Float[Array, ""]:
    """Returns the cross entropies of both samplers' labels, by alpha.

    Args:
      logits: of the mixed features, whose rows pair images of both samplers.
      conventional_labels: of the images drawn uniformly.
      reversed_labels: of those drawn by :func:`reversed_classes`.
      share: :func:`alpha` of the epoch.
    """
    log_p, rows = jax.nn.log_softmax(logits), jnp.arange(len(logits))
    terms = (
        share * log_p[rows, conventional_labels]
        + (1 - share) * log_p[rows, reversed_labels]
    )
    return -jnp.mean(terms)


def reversed_classes(
    train_counts: Int[np.ndarray, "C"], uniform: Float64[np.ndarray, " N"]
) -> Int[np.ndarray, " N"]:
    """Returns classes drawn with probability proportional to 1 / n_c.

    Differs from BBN: a class without images is never drawn, where theirs divides by
    zero.

    Args:
      train_counts: n_c.
      uniform: numbers in [0, 1), one a draw.
    """
    counts = np.asarray(train_counts, np.float64)
    weights = np.divide(counts.max(), counts, out=0 * counts, where=counts > 0)
    borders = np.add.accumulate(weights)
    drawn = np.searchsorted(borders, uniform * borders[-1], side="left")
    return np.maximum(drawn, np.argmax(weights > 0))  # a draw of 0
