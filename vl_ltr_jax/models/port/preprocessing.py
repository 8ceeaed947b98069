"""A CLIP's own way from a picture to pixels, out of the files beside its weights."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

from vl_ltr_jax.data.images.transforms import NORMALIZATIONS, Constants
from vl_ltr_jax.logs.messages import shortened
from vl_ltr_jax.runtime.errors import UserError

Resize = Literal["shortest", "squash", "longest"]
# Pillow's filters in the order of its numbers, which Hugging Face's files have.
_FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
_LARGEST_SIDE = 2**20  # beyond any picture


class PreprocessingError(UserError):
    """A file beside the weights that describes no preprocessing known here."""


@dataclass(frozen=True)
class Preprocessing:
    """Pixels of a picture as a model expects them; by default those of OpenAI's CLIP.

    Attributes:
        image_size: Side of the model's input in pixels.
        shorter_side: Of the resized picture that it is cut from.
        normalization: Mean and standard deviation of the channels, of 0..1.
        interpolation: Filter of the resize.
        resize: `shortest` cuts the centre, `squash` keeps no aspect, `longest` pads.
    """

    image_size: int
    shorter_side: int = 0
    normalization: Constants = NORMALIZATIONS["clip"]
    interpolation: str = "bicubic"
    resize: Resize = "shortest"

    def __post_init__(self) -> None:
        object.__setattr__(self, "shorter_side", self.shorter_side or self.image_size)

    def at_image_size(self, image_size: int) -> "Preprocessing":
        """The same for another side in pixels."""
        shorter_side = round(self.shorter_side * image_size / self.image_size)
        return replace(self, image_size=image_size, shorter_side=shorter_side)


def from_processor_json(
    content: Mapping[str, Any], image_size: int, source: str
) -> Preprocessing:
    """Reads Hugging Face's description of an image processor.

    Args:
        content: `preprocessor_config.json`, or `image_processor` of the other file.
        image_size: The model's, where the content has none.
        source: Path of the file, for errors.

    Raises:
        PreprocessingError: If a value is of another kind, or is not built here.
    """
    factor = content.get("rescale_factor", 1 / 255)
    rescaled = content.get("do_rescale", True) is not False
    if not rescaled or not isinstance(factor, float) or abs(255 * factor - 1) > 1e-3:
        raise PreprocessingError(
            f"{source}: do_rescale is {shortened(content.get('do_rescale'))} and "
            f"rescale_factor {shortened(factor)}; pixels are divided by 255 here. Name "
            "another model"
        )
    number = content.get("resample", 3)
    if type(number) is not int or not 0 <= number < len(_FILTERS):
        raise PreprocessingError(
            f"{source}: resample is {shortened(number)}, none of Pillow's filters 0 to "
            f"{len(_FILTERS) - 1}. Correct it"
        )
    size = content.get("size", image_size)
    squashed = isinstance(size, dict) and "height" in size
    shorter_side = _side(size, "size", source)
    if content.get("do_center_crop", True) is not False:
        image_size = _side(content.get("crop_size", image_size), "crop_size", source)
    mean, std = NORMALIZATIONS["clip"]
    normalization = checked_constants(
        content.get("image_mean", mean), content.get("image_std", std), source
    )
    if content.get("do_normalize", True) is False:
        normalization = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    resize: Resize = "squash" if squashed else "shortest"
    return Preprocessing(
        image_size, shorter_side, normalization, _FILTERS[number], resize
    )


def from_open_clip(
    content: Mapping[str, Any], image_size: int, source: str
) -> Preprocessing:
    """Reads `preprocess_cfg` of open_clip; arguments and errors as those above."""
    mean, std = NORMALIZATIONS["clip"]
    filter_name = content.get("interpolation") or "bicubic"
    resize: Any = content.get("resize_mode") or "shortest"
    for key, value, known in (
        ("interpolation", filter_name, _FILTERS),
        ("resize_mode", resize, get_args(Resize)),
    ):
        if value not in known:
            raise PreprocessingError(
                f"{source}: preprocess_cfg.{key} is {shortened(value)}; known are "
                f"{', '.join(known)}. Correct it"
            )
    normalization = checked_constants(
        content.get("mean") or mean, content.get("std") or std, source
    )
    return Preprocessing(image_size, 0, normalization, filter_name, resize)


def to_open_clip(preprocessing: Preprocessing) -> dict[str, Any]:
    """The content of open_clip's `preprocess_cfg`."""
    mean, std = preprocessing.normalization
    return {
        "size": preprocessing.image_size,
        "mean": list(mean),
        "std": list(std),
        "interpolation": preprocessing.interpolation,
        "resize_mode": preprocessing.resize,
    }


def to_preprocessor_json(preprocessing: Preprocessing) -> str:
    """The text of a `preprocessor_config.json` for `transformers.CLIPImageProcessor`.

    Raises:
        PreprocessingError: If pictures are padded, which that class does not do.
    """
    if preprocessing.resize == "longest":
        raise PreprocessingError(
            "the model's pictures are padded (resize_mode 'longest'), which "
            "CLIPImageProcessor does not do; --to openai keeps it"
        )
    side, squash = preprocessing.image_size, preprocessing.resize == "squash"
    square = {"height": side, "width": side}
    mean, std = preprocessing.normalization
    content = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": square if squash else {"shortest_edge": preprocessing.shorter_side},
        "resample": _FILTERS.index(preprocessing.interpolation),
        "do_center_crop": not squash,
        "crop_size": square,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }
    return json.dumps(content, indent=2) + "\n"


def checked_constants(mean: Any, std: Any, source: str) -> Constants:
    """Mean and standard deviation out of a file's JSON.

    Raises:
        PreprocessingError: If they are not three numbers each, or a deviation is zero.
    """
    for name, values in (("mean", mean), ("std", std)):
        numbers = isinstance(values, Sequence) and [
            value
            for value in values
            if type(value) in (int, float) and math.isfinite(value)
        ]
        if not numbers or len(numbers) != 3 or len(values) != 3:
            raise PreprocessingError(
                f"{source}: the {name} is {shortened(values)}, not three numbers. "
                "Correct it"
            )
    if min(std) <= 0:
        raise PreprocessingError(
            f"{source}: the std is {shortened(std)}, and must be above zero. Correct it"
        )
    return cast(Constants, tuple(tuple(map(float, values)) for values in (mean, std)))


def _side(value: Any, key: str, source: str) -> int:
    """A side in pixels, from a number or from any of Hugging Face's objects."""
    sides = list(value.values()) if isinstance(value, dict) else [value]
    side = sides[0] if sides and sides == sides[:1] * len(sides) else None
    if type(side) is not int or not 0 < side <= _LARGEST_SIDE:
        raise PreprocessingError(
            f"{source}: {key} is {shortened(value)}, not the side of a square in "
            "pixels. Correct it"
        )
    return side
