"""Priors and weights from the training counts of the classes.

A class without training images counts as one with a single image. So no prior is zero
and no weight infinite.
"""

import numpy as np
from jaxtyping import Float64, Int


def log_priors(train_counts: Int[np.ndarray, "C"]) -> Float64[np.ndarray, "C"]:
    """Returns the logarithm of each class's share of the training images."""
    counts = np.maximum(train_counts, 1).astype(np.float64)
    return np.log(counts) - np.log(counts.sum())


def effective_number_weights(
    train_counts: Int[np.ndarray, "C"], beta: float
) -> Float64[np.ndarray, "C"]:
    """Returns weights (1 - beta) / (1 - beta^n_c) with the sum C (Cui et al., 2019).

    Args:
      train_counts: n_c.
      beta: from 0 (equal weights) to below 1 (near 1 / n_c, before they are scaled).
    """
    counts = np.maximum(train_counts, 1).astype(np.float64)
    # For beta near 1, 1 - beta^n loses the digits that expm1 keeps.
    numbers = -np.expm1(counts * np.log(beta)) if beta else np.ones_like(counts)
    weights = 1 / numbers
    return weights * (len(counts) / weights.sum())
