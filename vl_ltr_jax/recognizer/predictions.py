"""Inputs of a recognizer, and its predictions."""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float32
from PIL import Image

from vl_ltr_jax.data.images import decode
from vl_ltr_jax.data.images.orientation import Orientation
from vl_ltr_jax.recognizer.card import RecognizerError

Picture: TypeAlias = str | os.PathLike[str] | Image.Image | np.ndarray


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The most probable classes of a picture, best first.

    Attributes:
      names: names of the classes.
      probabilities: probability of each class.
      classes: labels of the classes.
    """

    names: tuple[str, ...]
    probabilities: tuple[float, ...]
    classes: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class AttendedSentence:
    """A sentence of a class, with LGR's attention to it for a picture.

    Attributes:
      text: the sentence.
      weight: share of the attention; those of a class add up to 1.
      cosine: cosine between the embeddings of picture and sentence.
    """

    text: str
    weight: float
    cosine: float


@dataclasses.dataclass(frozen=True)
class Explanation:
    """A prediction, with the evidence for its first class.

    Attributes:
      prediction: the most probable classes.
      visual: probability of the first class by the visual branch, if there is one.
      language: the same by the language branch.
      sentences: sentences of the first class, largest weight first; empty without LGR.
    """

    prediction: Prediction
    visual: float | None
    language: float | None
    sentences: tuple[AttendedSentence, ...]


def as_list(pictures: Picture | Iterable[Picture]) -> list[Picture]:
    """Returns several pictures as a list, and one as a list of one."""
    if isinstance(pictures, str | os.PathLike | Image.Image):
        return [pictures]
    if getattr(pictures, "ndim", None) == 3:
        return [pictures]  # type: ignore[list-item]
    return list(pictures)


def open_picture(picture: Picture, orientation: Orientation) -> decode.Picture:
    """Returns a picture as RGB, decoded later where possible.

    Args:
      picture: path, PIL image, or pixels.
      orientation: treatment of EXIF, see `decode.decode_image`.

    Raises:
      ImageReadError: the file is missing, damaged or no image.
      RecognizerError: the array is not a picture.
    """
    if isinstance(picture, str | os.PathLike):
        name = os.fsdecode(picture)
        content = decode.read_content(Path(name), name)
        return decode.decode_image(content, name, orientation)
    if not isinstance(picture, Image.Image):
        picture = _from_array(picture)
    return decode.to_rgb(picture, orientation)


def _from_array(array: Any) -> Image.Image:
    pixels = np.asarray(array)
    if pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3:
        return Image.fromarray(pixels)
    raise RecognizerError(
        f"a picture is {pixels.dtype}{list(pixels.shape)}. Give a path, a PIL image or "
        "a uint8 array [height, width, 3]"
    )


def attended_sentences(
    texts: Sequence[str],
    weights: Float32[np.ndarray, "M"],
    anchors: Float32[np.ndarray, "M D"],
    features: Float32[np.ndarray, "D"],
    num_anchors: int,
) -> tuple[AttendedSentence, ...]:
    """Returns the anchors of a class for one picture, largest weight first.

    Args:
      texts: anchor sentences of the class; empty if unknown.
      weights: attention over the anchors.
      anchors: embeddings of the anchors.
      features: features of the picture.
      num_anchors: anchors before padding.
    """
    order = np.argsort(-weights[:num_anchors], kind="stable")
    lengths = np.linalg.norm(anchors, axis=1) * np.linalg.norm(features)
    cosines = anchors @ features / np.maximum(lengths, 1e-12)
    return tuple(
        AttendedSentence(
            texts[place] if place < len(texts) else "",
            float(weights[place]),
            float(cosines[place]),
        )
        for place in map(int, order)
    )
