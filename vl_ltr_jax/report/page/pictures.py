"""Pictures with what was said of them, and which pictures are worth it."""

import base64
import io
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Int
from PIL import Image

from vl_ltr_jax.evaluate.accuracy import Ranking
from vl_ltr_jax.recognizer.predictions import Explanation
from vl_ltr_jax.report.page import text
from vl_ltr_jax.report.page.content import (
    GROUPS,
    AttendedSentence,
    ClassGuess,
    ExplainedPicture,
)
from vl_ltr_jax.report.page.per_class import group_names

# A picture, its true class, and what was said of it.
Explained: TypeAlias = tuple[Image.Image, int, Explanation]
MAX_PICTURES = 12
MAX_SIDE = 160  # pixels
_TINY_SIDE = 80  # a picture that is smaller is shown enlarged, pixel by pixel
_JPEG_QUALITY = 85


def choose(
    ranked: Ranking, train_counts: Int[np.ndarray, "C"], number: int = MAX_PICTURES
) -> Int[np.ndarray, " E"]:
    """Indices of images to explain, of every group and right and wrong in turn.

    Of each group first the right and the wrong one with the clearest margin, then the
    next clear ones of classes that are not there yet.

    Args:
      ranked: of a split.
      train_counts: training images of each class.
      number: at most so many.
    """
    groups = np.array(group_names(train_counts), object)[ranked.labels]
    clear = np.argsort(-np.abs(ranked.margins), kind="stable")
    right = ranked.classes[:, 0] == ranked.labels
    labels = np.asarray(ranked.labels)
    queues = [
        _one_of_each_class(clear[(groups[clear] == group) & kind[clear]], labels)
        for group in GROUPS
        for kind in (right, ~right)
    ]
    longest = max(map(len, queues), default=0)
    turns = [
        queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)
    ]
    return np.array(turns[:number], np.int64)


def _one_of_each_class(indices: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The first image of each class, in order."""
    _, first = np.unique(labels[indices], return_index=True)
    return indices[np.sort(first)]


def explained(
    pictures: Sequence[Explained], class_names: Sequence[str]
) -> tuple[ExplainedPicture, ...]:
    """Pictures with true class and explanation, as the page shows them.

    Args:
      pictures: of which the first `MAX_PICTURES` are shown.
      class_names: C names, of which several may be the same.
    """
    return tuple(
        _explained(picture, label, class_names[label], explanation)
        for picture, label, explanation in pictures[:MAX_PICTURES]
    )


def _explained(
    picture: Image.Image, label: int, true_name: str, explanation: Explanation
) -> ExplainedPicture:
    said = explanation.prediction
    answers = tuple(
        ClassGuess(text.name(name), 100 * share, answer == label)
        for name, share, answer in zip(
            said.names, said.probabilities, said.classes, strict=True
        )
    )
    branches = {"visual": explanation.visual, "language": explanation.language}
    source, size, enlarged = data_uri(picture)
    return ExplainedPicture(
        source=source,
        size=size,
        enlarged=enlarged,
        name=text.name(true_name),
        right=bool(answers) and answers[0].right,
        answers=answers,
        branches={
            name: 100 * share for name, share in branches.items() if share is not None
        },
        sentences=tuple(
            AttendedSentence(text.sentence(one.text), 100 * one.weight, one.cosine)
            for one in explanation.sentences
        ),
    )


def data_uri(picture: Image.Image) -> tuple[str, tuple[int, int], bool]:
    """A picture inside an address, the size to show it at, and whether enlarged.

    A tiny one is kept to the last bit as PNG and enlarged by a whole number; any other
    becomes a JPEG of at most `MAX_SIDE` pixels.
    """
    picture = picture.convert("RGB")
    longest = max(picture.size)
    file = io.BytesIO()
    if longest <= _TINY_SIDE:
        picture.save(file, "PNG", optimize=True)
        kind, factor = "png", MAX_SIDE // longest
        size = (picture.width * factor, picture.height * factor)
    else:
        picture.thumbnail((MAX_SIDE, MAX_SIDE))
        picture.save(file, "JPEG", quality=_JPEG_QUALITY)
        kind, size = "jpeg", picture.size
    content = base64.b64encode(file.getvalue()).decode()
    return f"data:image/{kind};base64,{content}", size, longest <= _TINY_SIDE
