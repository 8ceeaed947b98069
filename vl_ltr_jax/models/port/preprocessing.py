"""A CLIP's own way from a picture to pixels, from the files next to its weights."""

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


class PreprocessingError(UserError):
    """A file next to the weights whose preprocessing is not built here."""


@dataclass(frozen=True)
class Preprocessing:
    """Pixels of a picture as a model expects them; by default those of OpenAI's CLIP.

    Attributes:
      image_size: side of the model's input in pixels.
      shorter_side: shorter side of the resized picture, which is then cropped.
      normalization: mean and standard deviation of the channels, of 0..1.
      interpolation: filter of the resize.
      resize: `shortest` crops the centre, `squash` ignores the aspect, `longest` pads.
    """

    image_size: int
    shorter_side: int = 0
    normalization: Constants = NORMALIZATIONS["clip"]
    interpolation: str = "bicubic"
    resize: Resize = "shortest"

    def __post_init__(self) -> None:
        object.__setattr__(self, "shorter_side", self.shorter_side or self.image_size)

    def at_image_size(self, image_size: int) -> "Preprocessing":
        """Returns the same preprocessing for another side in pixels."""
        shorter_side = round(self.shorter_side * image_size / self.image_size)
        return replace(self, image_size=image_size, shorter_side=shorter_side)


def _error(source: str, key: str, value: Any, allowed: str) -> PreprocessingError:
    return PreprocessingError(
        f"{source}: {key} is {shortened(value)}, not {allowed}. Correct it, or name "
        "another model"
    )


def from_processor_json(
    content: Mapping[str, Any], image_size: int, source: str
) -> Preprocessing:
    """Reads Hugging Face's description of an image processor.

    Args:
      content: `preprocessor_config.json`, or `image_processor` of the other file.
      image_size: the model's, where the content has none.
      source: path of the file, for errors.

    Raises:
      PreprocessingError: a value has another type, or is not built here.
    """
    if content.get("do_rescale", True) is False:
        raise _error(source, "do_rescale", False, "true")
    factor = content.get("rescale_factor", 1 / 255)
    if not isinstance(factor, float) or abs(255 * factor - 1) > 1e-3:
        raise _error(source, "rescale_factor", factor, "1 / 255")
    number = content.get("resample", 3)
    if type(number) is not int or not 0 <= number < len(_FILTERS):
        raise _error(source, "resample", number, "a filter of Pillow, 0 to 5")
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
    """Reads open_clip's `preprocess_cfg`; see :func:`from_processor_json`."""
    mean, std = NORMALIZATIONS["clip"]
    interpolation = content.get("interpolation") or "bicubic"
    resize: Any = content.get("resize_mode") or "shortest"
    for key, value, allowed in (
        ("interpolation", interpolation, _FILTERS),
        ("resize_mode", resize, get_args(Resize)),
    ):
        if value not in allowed:
            raise _error(source, f"preprocess_cfg.{key}", value, " or ".join(allowed))
    normalization = checked_constants(
        content.get("mean") or mean, content.get("std") or std, source
    )
    return Preprocessing(image_size, 0, normalization, interpolation, resize)


def to_open_clip(preprocessing: Preprocessing) -> dict[str, Any]:
    """Returns the content of open_clip's `preprocess_cfg`."""
    mean, std = preprocessing.normalization
    return {
        "size": preprocessing.image_size,
        "mean": list(mean),
        "std": list(std),
        "interpolation": preprocessing.interpolation,
        "resize_mode": preprocessing.resize,
    }


def to_preprocessor_json(preprocessing: Preprocessing) -> str:
    """Returns a `preprocessor_config.json` for `transformers.CLIPImageProcessor`.

    Raises:
      PreprocessingError: pictures are padded, which that class does not do.
    """
    if preprocessing.resize == "longest":
        raise PreprocessingError(
            "resize_mode=longest: CLIPImageProcessor does not pad pictures. --to "
            "openai keeps the padding"
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
    """Returns the mean and the standard deviation in a file's JSON.

    Raises:
      PreprocessingError: they are not three finite numbers each, or a deviation is not
        positive.
    """
    for key, values, lowest in (("mean", mean, -math.inf), ("std", std, 0)):
        if not (
            isinstance(values, Sequence)
            and len(values) == 3
            and all(type(value) in (int, float) for value in values)
            and all(lowest < value < math.inf for value in values)
        ):
            raise _error(source, key, values, "three finite numbers, positive for std")
    return cast(Constants, tuple(tuple(map(float, values)) for values in (mean, std)))


def _side(value: Any, key: str, source: str) -> int:
    """Returns a side in pixels, from a number or from any of Hugging Face's objects."""
    sides = list(value.values()) if isinstance(value, dict) else [value]
    if any(type(side) is not int or side < 1 for side in sides) or len(set(sides)) != 1:
        raise _error(source, key, value, "the side of a square in pixels")
    return cast(int, sides[0])
