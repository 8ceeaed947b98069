"""A balanced data set thinned to an exponential long tail, as CIFAR-100-LT is.

Cui et al., "Class-Balanced Loss" (CVPR 2019), as in Cao et al., "LDAM" (NeurIPS 2019):
class c keeps n_max * imbalance ** (-c / (C - 1)) images, rounded down.
"""

import numpy as np
from jaxtyping import Int32, Int64


def exponential_counts(
    largest: int, num_classes: int, imbalance: int
) -> tuple[int, ...]:
    """Images of each class, from `largest` to `largest / imbalance`, at least one."""
    last = max(num_classes - 1, 1)
    return tuple(
        max(int(largest * imbalance ** (-label / last)), 1)
        for label in range(num_classes)
    )


def thin(
    labels: Int32[np.ndarray, "N"], imbalance: int, *, seed: int
) -> Int64[np.ndarray, "K"]:
    """Which images are kept, in ascending order.

    What an imbalance keeps, a smaller one keeps too. The authors draw from numpy's
    global state, so their images are others.

    Args:
      labels: class of each of N images, from 0; n_max is the size of the smallest.
      imbalance: images of the first class over those of the last.
      seed: of the draws; each class has its own.
    """
    members = [np.flatnonzero(labels == label) for label in range(labels.max() + 1)]
    smallest = min(map(len, members))
    counts = exponential_counts(smallest, len(members), imbalance)
    kept = [
        np.random.default_rng((seed, label)).permutation(members[label])[:count]
        for label, count in enumerate(counts)
    ]
    return np.sort(np.concatenate(kept))
