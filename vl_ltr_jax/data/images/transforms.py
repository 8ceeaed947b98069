"""Pictures to model input: crops on the host, normalisation on the device.

The host hands over bytes [H, W, 3]. Scaling, normalisation and random erasing happen in
the compiled step, so a quarter of the bytes travel. Recipes for training, with numbers
from :class:`Strengths`:

- `rand_augment`: VL-LTR's own: crop of 8 to 100 % of the area, flip, RandAugment.
- `plain`: the same crop and flip with colour jitter.
- `gentle`: crop of 50 to 100 % and flip, for small pictures.
- `none`: the evaluation picture.

Recipes for evaluation, a bicubic resize of the shorter side and a centre crop:

- `vl_ltr`: the shorter side becomes 256/224 of the crop, as the authors do.
- `clip`: the shorter side becomes the crop itself, as in CLIP.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8
from PIL import Image

from vl_ltr_jax.data.images.augment import jitter_colours, rand_augment
from vl_ltr_jax.data.images.decode import Picture, as_image
from vl_ltr_jax.logs.messages import unknown_name

Pixels: TypeAlias = UInt8[np.ndarray, "H W 3"]
TrainTransform: TypeAlias = Callable[[Picture, np.random.Generator], Pixels]
EvalTransform: TypeAlias = Callable[[Picture], Pixels]
Augmentation: TypeAlias = Callable[[Image.Image, np.random.Generator], Image.Image]
_Channels: TypeAlias = tuple[float, float, float]
# Mean and standard deviation of the channels of pictures scaled to 0..1.
Constants: TypeAlias = tuple[_Channels, _Channels]

# Smallest share of the area that a crop keeps, and augmentation after the flip.
_TRAIN_RECIPES: dict[str, tuple[float, str]] = {
    "rand_augment": (0.08, "rand_augment"),
    "plain": (0.08, "jitter_colours"),
    "gentle": (0.5, ""),
}
TRAIN_RECIPES = (*_TRAIN_RECIPES, "none")
# Shorter side over the crop's, and the rounding of half a pixel.
EVAL_RECIPES: dict[str, tuple[float, Literal["up", "even"]]] = {
    "vl_ltr": (256 / 224, "up"),
    "clip": (1.0, "even"),
}
NORMALIZATIONS: dict[str, Constants] = {
    "clip": (
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
    ),
    "clip_4digit": ((0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
_ASPECT_RATIOS = (3 / 4, 4 / 3)
_ATTEMPTS = 10
_MAX_RATIO = 32  # longer side to shorter side


def eval_transform(recipe: str, image_size: int) -> EvalTransform:
    """Returns the evaluation transform of a recipe, RGB picture to bytes.

    Raises:
      UnknownNameError: the recipe is unknown.
    """
    if recipe not in EVAL_RECIPES:
        raise unknown_name("the evaluation recipe", recipe, EVAL_RECIPES)
    share, half = EVAL_RECIPES[recipe]
    shorter_side = int(share * image_size)

    def transform(picture: Picture) -> Pixels:
        image = resize(as_image(picture), shorter_side)
        return np.asarray(centre_crop(image, image_size, half))

    return transform


@dataclasses.dataclass(frozen=True)
class Strengths:
    """The numbers of training recipes, by default those of VL-LTR.

    Attributes:
      crop_min_area: smallest share of the area that a crop keeps; 0: the recipe's.
      rand_augment_operations: draws for each picture.
      rand_augment_magnitude: mean strength, 0 to 10.
      rand_augment_probability: chance of a drawn operation to be applied.
      colour_jitter: largest change of brightness, contrast and saturation, a share.
    """

    crop_min_area: float = 0.0
    flip_probability: float = 0.5
    rand_augment_operations: int = 2
    rand_augment_magnitude: float = 9.0
    rand_augment_magnitude_std: float = 0.5
    rand_augment_probability: float = 0.5
    colour_jitter: float = 0.4


def train_transform(
    recipe: str,
    image_size: int,
    *,
    eval_recipe: str = "vl_ltr",
    strengths: Strengths = Strengths(),
) -> TrainTransform:
    """Returns the training transform of a recipe, RGB picture and generator to bytes.

    Args:
      recipe: one of `TRAIN_RECIPES`.
      image_size: side of the result, in pixels.
      eval_recipe: transform of the recipe `none`.
      strengths: numbers of crop, flip, RandAugment and colour jitter.

    Raises:
      UnknownNameError: the recipe is unknown.
    """
    if recipe == "none":
        unchanged = eval_transform(eval_recipe, image_size)
        return lambda picture, rng: unchanged(picture)
    if recipe not in _TRAIN_RECIPES:
        raise unknown_name("the training recipe", recipe, TRAIN_RECIPES)
    smallest, colours = _TRAIN_RECIPES[recipe]
    smallest = strengths.crop_min_area or smallest
    augmentations: dict[str, Augmentation] = {
        "rand_augment": functools.partial(
            rand_augment,
            num_operations=strengths.rand_augment_operations,
            magnitude=strengths.rand_augment_magnitude,
            magnitude_std=strengths.rand_augment_magnitude_std,
            probability=strengths.rand_augment_probability,
        ),
        "jitter_colours": functools.partial(
            jitter_colours, strength=strengths.colour_jitter
        ),
        "": lambda image, rng: image,
    }
    augment = augmentations[colours]

    def transform(picture: Picture, rng: np.random.Generator) -> Pixels:
        image = random_resized_crop(picture, rng, image_size, (smallest, 1.0))
        if rng.random() < strengths.flip_probability:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(augment(image, rng))

    return transform


def resize(image: Image.Image, shorter_side: int) -> Image.Image:
    """Resizes the shorter side to a length; the longer is rounded down.

    Differs from VL-LTR: a picture more than 32 times as long as wide is cut to its
    middle. Enlarged without the cut it could take gigabytes.
    """
    longest = _MAX_RATIO * min(image.size)
    if max(image.size) > longest:
        width, height = (min(side, longest) for side in image.size)
        x, y = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((x, y, x + width, y + height))
    width, height = image.size
    if min(image.size) == shorter_side:
        return image
    if width < height:
        size = shorter_side, int(shorter_side * height / width)
    else:
        size = int(shorter_side * width / height), shorter_side
    return image.resize(size, Image.Resampling.BICUBIC)


def centre_crop(
    image: Image.Image, side: int, half: Literal["up", "even"] = "up"
) -> Image.Image:
    """Returns the central square.

    Args:
      image: at least as large as the square.
      side: side of the square, in pixels.
      half: rounding of half a pixel: `up` as in torchvision 0.8.1, which VL-LTR pins,
        or to `even` as in the later versions that CLIP runs with.
    """
    x, y = (
        (margin + 1) // 2 if half == "up" else round(margin / 2)
        for margin in (image.width - side, image.height - side)
    )
    return image.crop((x, y, x + side, y + side))


def random_resized_crop(
    picture: Picture,
    rng: np.random.Generator,
    side: int,
    scale: tuple[float, float] = (0.08, 1.0),
) -> Image.Image:
    """Returns a random crop of random size and shape, resized to a square.

    Width to height lies between 3:4 and 4:3, uniform in its logarithm. After ten boxes
    that do not fit, the crop is the largest such box at the centre.

    Args:
      picture: RGB.
      rng: source of every choice.
      side: side of the result, in pixels.
      scale: smallest and largest share of the area.
    """
    x, y, width, height = _crop_box(*picture.size, rng, scale)
    # Crop first: `resize(box=...)` reads pixels outside of the box.
    image = picture.crop((x, y, x + width, y + height))
    return image.resize((side, side), Image.Resampling.BICUBIC)


def _crop_box(
    image_width: int,
    image_height: int,
    rng: np.random.Generator,
    scale: tuple[float, float],
) -> tuple[int, int, int, int]:
    low, high = _ASPECT_RATIOS
    for _ in range(_ATTEMPTS):
        area = rng.uniform(*scale) * image_width * image_height
        aspect = math.exp(rng.uniform(math.log(low), math.log(high)))
        width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < width <= image_width and 0 < height <= image_height:
            x = int(rng.integers(image_width - width + 1))
            y = int(rng.integers(image_height - height + 1))
            return x, y, width, height
    width = min(image_width, round(image_height * high))
    height = min(image_height, round(image_width / low))
    return (image_width - width) // 2, (image_height - height) // 2, width, height


def normalize(
    images: UInt8[Array, "B H W 3"], constants: str | Constants = "clip_4digit"
) -> Float[Array, "B H W 3"]:
    """Returns float32 channels of about zero mean and unit variance.

    Args:
      images: RGB.
      constants: mean and standard deviation, or a key of `NORMALIZATIONS`;
        `clip_4digit` is `clip` rounded as in VL-LTR.

    Raises:
      UnknownNameError: the constants are unknown.
    """
    if isinstance(constants, str):
        if constants not in NORMALIZATIONS:
            raise unknown_name("the normalization", constants, NORMALIZATIONS)
        constants = NORMALIZATIONS[constants]
    mean, std = jnp.array(constants, jnp.float32)[:, None, None, None]
    return (images.astype(jnp.float32) / 255 - mean) / std


def random_erase(
    key: PRNGKeyArray,
    images: Float[Array, "B H W D"],
    probability: float = 0.25,
    rows: Int[Array, " B"] | None = None,
) -> Float[Array, "B H W D"]:
    """Replaces a rectangle of some images by normal noise, pixel by pixel.

    The key of an image depends on its place in the global batch. So the result does not
    depend on the devices that hold the batch. The rectangle covers 2 to 33 % of the
    area. Height to width lies between 0.3 and 3.3, uniform in its logarithm. Follows
    VL-LTR's configurations (`pixel` mode).

    Args:
      key: one key per step.
      images: normalised.
      probability: chance of an image to change.
      rows: places in the global batch, if the images are a part of it.
    """
    rows = jnp.arange(len(images)) if rows is None else rows
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
    return jax.vmap(_erase, (0, 0, None))(keys, images, probability)


def _erase(
    key: PRNGKeyArray, image: Float[Array, "H W D"], probability: float
) -> Float[Array, "H W D"]:
    geometry, noise = jax.random.split(key)
    sides = jnp.array(image.shape[:2])
    # One draw for all numbers: compiling each generator call takes a second on CPU.
    drawn = jax.random.uniform(geometry, (2 * _ATTEMPTS + 3,))
    areas, aspects, (chance, *place) = jnp.split(drawn, [_ATTEMPTS, 2 * _ATTEMPTS])
    areas = (0.02 + (1 / 3 - 0.02) * areas) * sides.prod()
    aspects = jnp.exp(math.log(0.3) * (2 * aspects - 1))
    # Height and width of every attempt, [10, 2]; the first that fits is taken.
    boxes = jnp.sqrt(jnp.stack([areas * aspects, areas / aspects], axis=1))
    boxes = jnp.round(boxes).astype(int)
    fits = (boxes < sides[None]).all(axis=1)
    box = boxes[fits.argmax()]
    corner = jnp.floor(jnp.stack(place) * (sides - box + 1)).astype(int)
    rows, columns = (
        (jnp.arange(side) >= first) & (jnp.arange(side) < first + length)
        for side, first, length in zip(image.shape[:2], corner, box, strict=True)
    )
    erased = (chance < probability) & fits.any()
    inside = erased & rows[:, None] & columns[None, :]
    return jnp.where(
        inside[:, :, None], jax.random.normal(noise, image.shape, image.dtype), image
    )
