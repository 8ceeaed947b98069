"""A balanced data set thinned to an exponential long tail, as CIFAR-100-LT is.

Cui et al., "Class-Balanced Loss" (CVPR 2019), as in Cao et al., "LDAM" (NeurIPS 2019):
class c keeps n_max * imbalance ** (-c / (C - 1)) images, rounded down.
"""

import numpy as np
from jaxtyping import Int32, Int64


def exponential_counts(
    largest: int, num_classes: int, imbalance: int
) -> tuple[int, ...]:
    """Returns images per class, from `largest` to `largest / imbalance`, at least 1."""
    last = max(num_classes - 1, 1)
    return tuple(
        max(int(largest * imbalance ** (-label / last)), 1)
        for label in range(num_classes)
    )


def thin(
    labels: Int32[np.ndarray, "N"], imbalance: int, *, seed: int
) -> Int64[np.ndarray, "K"]:
    """Returns the indices of the remaining images, in ascending order.

    A smaller imbalance keeps the images of a larger one. Differs from the authors, who
    draw from numpy's global state.

    Args:
      labels: class of each of N images, from 0; n_max is the size of the smallest.
      imbalance: images of the first class over those of the last.
      seed: of the draws; each class has its own.
    """
    members = [np.flatnonzero(labels == label) for label in range(labels.max() + 1)]
    smallest = min(map(len, members))
    counts = exponential_counts(smallest, len(members), imbalance)
    chosen = [
        np.random.default_rng((seed, label)).permutation(members[label])[:count]
        for label, count in enumerate(counts)
    ]
    return np.sort(np.concatenate(chosen))
