"""Position embeddings for another image size than they were trained at."""

import math

import numpy as np
from jaxtyping import Float


def _bicubic_weights(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Weights of cubic convolution with a = -0.75 and repeated edges, as in PyTorch."""
    a = -0.75
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(centres).astype(int) - 1
    weights = np.zeros((new, old))
    for tap in range(4):
        distance = np.abs(centres - first - tap)
        inner = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        outer = a * (((distance - 5) * distance + 8) * distance - 4)
        column = np.clip(first + tap, 0, old - 1)
        np.add.at(
            weights, (np.arange(new), column), np.where(distance <= 1, inner, outer)
        )
    return weights


def interpolate_positions(
    positions: Float[np.ndarray, "rows D"], new_grid: int
) -> Float[np.ndarray, "1+{new_grid}**2 D"]:
    """Resizes the position embeddings of a square grid, for another image size.

    Bicubic, with half-pixel centres and no antialiasing; the first row, which belongs
    to no place in the image, is kept.

    Args:
        positions: One row for the class token or the mean, then the grid by rows.
        new_grid: Positions along a side of the new grid.
    """
    old_grid = math.isqrt(len(positions) - 1)
    weights = _bicubic_weights(old_grid, new_grid)
    grid = positions[1:].reshape(old_grid, old_grid, -1)
    resized = np.einsum("yi,xj,ijd->yxd", weights, weights, grid, optimize=True)
    resized = resized.reshape(new_grid**2, -1).astype(positions.dtype)
    return np.concatenate([positions[:1], resized])
