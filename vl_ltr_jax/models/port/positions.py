"""Position embeddings interpolated to another image size."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from vl_ltr_jax.models.clip import VisionConfig


def _bicubic_weights(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Returns PyTorch's weights: cubic, a = -0.75, repeated edges."""
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

    Bicubic, with half-pixel centres and no antialiasing. The first row has no place in
    the image and stays the same.

    Args:
      positions: a row for the class token or the mean, then the grid by rows.
      new_grid: positions along a side of the new grid.
    """
    old_grid = math.isqrt(len(positions) - 1)
    weights = _bicubic_weights(old_grid, new_grid)
    grid = positions[1:].reshape(old_grid, old_grid, -1)
    resized = np.einsum("yi,xj,ijd->yxd", weights, weights, grid, optimize=True)
    resized = resized.reshape(new_grid**2, -1).astype(positions.dtype)
    return np.concatenate([positions[:1], resized])


def resize_tower(
    visual: Mapping[str, Any], vision: VisionConfig, image_size: int
) -> tuple[VisionConfig, dict[str, Any]]:
    """Returns an image tower for another image size; only its positions change.

    Args:
      visual: the branch `visual` of the parameters.
      vision: present sizes of the tower.
      image_size: new side in pixels.

    Returns:
      The new sizes and the new branch.

    Raises:
      SizeError: the size is no multiple of the patch.
    """
    resized = replace(vision, image_size=image_size)
    if image_size == vision.image_size:
        return resized, dict(visual)
    key, grid = "positional_embedding", image_size // vision.stride
    owner = visual.get("attnpool", visual)
    owner = {**owner, key: interpolate_positions(owner[key], grid)}
    if "attnpool" in visual:
        return resized, {**visual, "attnpool": owner}
    return resized, owner
