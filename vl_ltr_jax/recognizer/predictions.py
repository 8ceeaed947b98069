"""What a recognizer is given and what it answers: pictures, and predictions of them."""

import dataclasses
import os
from collections.abc import Sequence
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
    """The likeliest classes of a picture, best first.

    Attributes:
      names: of the classes.
      probabilities: of each.
      classes: their labels.
    """

    names: tuple[str, ...]
    probabilities: tuple[float, ...]
    classes: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class AttendedSentence:
    """A sentence of a class, as LGR attended to it for a picture.

    Attributes:
      text: the sentence.
      weight: its share of the attention; those of a class add up to 1.
      cosine: of the picture's embedding and the sentence's.
    """

    text: str
    weight: float
    cosine: float


@dataclasses.dataclass(frozen=True)
class Explanation:
    """A prediction, and what spoke for its first class.

    Attributes:
      prediction: the likeliest classes.
      visual: probability of the first class by the visual branch; None without one.
      language: the same by the language branch.
      sentences: of the first class, the most attended first; empty without LGR.
    """

    prediction: Prediction
    visual: float | None
    language: float | None
    sentences: tuple[AttendedSentence, ...]


def listed(given: Any) -> list[Any]:
    """One as a list of one."""
    if isinstance(given, str | os.PathLike | Image.Image):
        return [given]
    if getattr(given, "ndim", None) == 3:
        return [given]
    try:
        return list(given)
    except TypeError:
        return [given]


def one_line(text: str) -> str:
    """A text without line ends and doubled blanks.

    Raises:
      RecognizerError: if it is no text, or holds half of a surrogate pair.
    """
    try:
        text.encode()
    except (AttributeError, TypeError, UnicodeEncodeError):
        raise RecognizerError(
            f"{text!r} is no text: give str, in whole Unicode"
        ) from None
    return " ".join(text.split())


def opened(image: Picture, orientation: Orientation) -> decode.Picture:
    """Returns a picture as RGB, not decoded yet where that can wait.

    Args:
      image: a path, a PIL image, or pixels.
      orientation: of files and PIL images, see `decode.decode_image`.

    Raises:
      ImageReadError: if a file is missing, or no image.
      RecognizerError: for what is no picture.
    """
    if isinstance(image, str | os.PathLike):
        return _read(image, orientation)
    if not isinstance(image, Image.Image):
        image = _from_array(image)
    if 0 in image.size:
        raise RecognizerError(f"a picture of {image.width} x {image.height} pixels")
    try:
        return decode.to_rgb(image, orientation)
    except (OSError, ValueError) as error:
        raise RecognizerError(f"a picture that cannot be decoded: {error}") from error


def _read(path: str | os.PathLike[str], orientation: Orientation) -> decode.Picture:
    name = os.fsdecode(path)
    if "\0" in name:
        raise RecognizerError(f"{name!r} is no path: it has a NUL")
    content = decode.read_content(Path(name), name)
    return decode.decode_image(content, name, orientation)


def _from_array(given: Any) -> Image.Image:
    pixels = np.asarray(given)
    if pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3:
        return Image.fromarray(pixels)
    what = f"{pixels.dtype}{list(pixels.shape)}"
    raise RecognizerError(
        f"a picture given as {type(given).__name__} ({what}); give a path, a PIL image "
        "or a uint8 array [height, width, 3]"
    )


def attended_sentences(
    texts: Sequence[str],
    weights: Float32[np.ndarray, "M"],
    anchors: Float32[np.ndarray, "M D"],
    features: Float32[np.ndarray, "D"],
    count: int,
) -> tuple[AttendedSentence, ...]:
    """The sentences of a class for one picture, the most attended first.

    Args:
      texts: the class's anchor sentences, or none where they are not known.
      weights: attention over the anchors.
      anchors: their embeddings.
      features: of the picture.
      count: how many of the anchors, the first ones, are there.
    """
    order = np.argsort(-weights[:count], kind="stable")
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


def softmax(logits: Float32[np.ndarray, "b C"]) -> Float32[np.ndarray, "b C"]:
    """Probabilities of logits, on the host."""
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)
