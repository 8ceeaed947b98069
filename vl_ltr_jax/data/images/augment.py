"""Random changes of a picture: RandAugment and colour jitter, on Pillow images.

RandAugment is the variant that VL-LTR trains with, `m9-n2-mstd0.5-inc1`. It draws two
of fifteen operations and applies each with probability one half. The magnitude lies
near 9 of 10, and every operation is stronger with a larger magnitude. Not described in
the paper; it follows from the authors' configurations.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

Colour: TypeAlias = tuple[int, int, int]
# Image, change in [-1, 1] (its size is the magnitude), colour of uncovered corners.
Operation: TypeAlias = Callable[[Image.Image, float, Colour], Image.Image]

MEAN_COLOUR: Colour = (124, 116, 104)  # of ImageNet
_BICUBIC = Image.Resampling.BICUBIC


def _enhance(enhancer: Any) -> Operation:
    return lambda image, change, fill: enhancer(image).enhance(1 + 0.9 * change)


def _table(level: Callable[[int, float], int]) -> Operation:
    return lambda image, change, fill: image.point(
        [level(value, abs(change)) for value in range(256)] * 3
    )


def _affine(
    coefficients: Callable[[Image.Image, float], tuple[float, ...]],
) -> Operation:
    return lambda image, change, fill: image.transform(
        image.size,
        Image.Transform.AFFINE,
        coefficients(image, change),
        resample=_BICUBIC,
        fillcolor=fill,
    )


def _lift(value: int, magnitude: float) -> int:
    return min(255, value + int(110 * magnitude)) if value < 128 else value


OPERATIONS: dict[str, Operation] = {
    "autocontrast": lambda image, change, fill: ImageOps.autocontrast(image),
    "equalize": lambda image, change, fill: ImageOps.equalize(image),
    "invert": lambda image, change, fill: ImageOps.invert(image),
    "rotate": lambda image, change, fill: image.rotate(
        30 * change, resample=_BICUBIC, fillcolor=fill
    ),
    # Keeps 4 - 4 m bits: one at magnitude 9, zero (a black picture) at 10.
    "posterize": _table(lambda value, m: value & -(1 << (4 + int(4 * m)))),
    "solarize": _table(
        lambda value, m: value if value < 256 - int(256 * m) else 255 - value
    ),
    "solarize_add": _table(_lift),
    "colour": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "shear_x": _affine(lambda image, change: (1, 0.3 * change, 0, 0, 1, 0)),
    "shear_y": _affine(lambda image, change: (1, 0, 0, 0.3 * change, 1, 0)),
    "translate_x": _affine(
        lambda image, change: (1, 0, 0.45 * change * image.width, 0, 1, 0)
    ),
    "translate_y": _affine(
        lambda image, change: (1, 0, 0, 0, 1, 0.45 * change * image.height)
    ),
}
_NAMES = tuple(OPERATIONS)


def draw_operations(
    rng: np.random.Generator,
    *,
    num_operations: int = 2,
    magnitude: float = 9.0,
    magnitude_std: float = 0.5,
    probability: float = 0.5,
) -> list[tuple[str, float]]:
    """Draws operations with replacement, and keeps each with `probability`.

    Args:
      rng: source of every choice.
      num_operations: number of draws.
      magnitude: mean strength, 0 to 10.
      magnitude_std: standard deviation; draws are clipped to 0 to 10.
      probability: chance of a drawn operation to be kept.

    Returns:
      Names in :data:`OPERATIONS` and changes in [-1, 1], in the order to apply them.
    """
    drawn = []
    for choice in rng.integers(len(_NAMES), size=num_operations):
        strength = min(max(rng.normal(magnitude, magnitude_std), 0.0), 10.0) / 10.0
        change = -strength if rng.random() < 0.5 else strength
        if rng.random() < probability:
            drawn.append((_NAMES[choice], change))
    return drawn


def rand_augment(
    image: Image.Image,
    rng: np.random.Generator,
    *,
    fill: Colour = MEAN_COLOUR,
    **numbers: Any,
) -> Image.Image:
    """Returns an RGB picture after drawn operations.

    Args:
      image: RGB.
      rng: source of every choice.
      fill: colour of uncovered pixels.
      **numbers: those of :func:`draw_operations`.
    """
    for name, change in draw_operations(rng, **numbers):
        image = OPERATIONS[name](image, change, fill)
    return image


def jitter_colours(
    image: Image.Image, rng: np.random.Generator, strength: float = 0.4
) -> Image.Image:
    """Scales brightness, contrast and saturation, in random order.

    Factors are uniform in 1 - strength to 1 + strength.
    """
    factors = rng.uniform(1 - strength, 1 + strength, 3)
    enhancers: tuple[Any, ...] = (
        ImageEnhance.Brightness,
        ImageEnhance.Contrast,
        ImageEnhance.Color,
    )
    for choice in rng.permutation(3):
        image = enhancers[choice](image).enhance(float(factors[choice]))
    return image
