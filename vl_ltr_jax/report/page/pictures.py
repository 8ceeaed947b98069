"""Pictures with predictions, and the choice of pictures."""

import base64
import dataclasses
import io
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Int
from PIL import Image

from vl_ltr_jax.evaluate.accuracy import Ranking
from vl_ltr_jax.recognizer.predictions import Explanation
from vl_ltr_jax.report.page import text
from vl_ltr_jax.report.page.content import GROUPS, ClassGuess, ExplainedPicture
from vl_ltr_jax.report.page.per_class import group_names

# A picture, its true class, and its explanation.
Explained: TypeAlias = tuple[Image.Image, int, Explanation]
MAX_PICTURES = 12
MAX_SIDE = 160  # pixels
_TINY_SIDE = 80  # a smaller picture is enlarged, pixel by pixel
_JPEG_QUALITY = 85


def choose(
    ranking: Ranking, train_counts: Int[np.ndarray, "C"], number: int = MAX_PICTURES
) -> Int[np.ndarray, " E"]:
    """Returns indices of images to explain, of all groups, right and wrong in turn.

    Of each group first the right and the wrong image with the largest margin, then the
    next images of further classes.

    Args:
      ranking: images of a split.
      train_counts: training images of each class.
      number: maximum.
    """
    groups = np.array(group_names(train_counts), object)[ranking.labels]
    order = np.argsort(-np.abs(ranking.margins), kind="stable")
    right = ranking.classes[:, 0] == ranking.labels
    labels = np.asarray(ranking.labels)
    queues = []
    for group in GROUPS:
        for kind in (right, ~right):
            queue = order[(groups[order] == group) & kind[order]]
            _, first = np.unique(labels[queue], return_index=True)
            queues.append(queue[np.sort(first)])  # the first image of each class
    longest = max(map(len, queues))
    turns = [
        queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)
    ]
    return np.array(turns[:number], np.int64)


def explained(
    pictures: Sequence[Explained], class_names: Sequence[str]
) -> tuple[ExplainedPicture, ...]:
    """Returns the first `MAX_PICTURES` pictures with true class and explanation."""
    return tuple(
        _explained(picture, label, class_names[label], explanation)
        for picture, label, explanation in pictures[:MAX_PICTURES]
    )


def _explained(
    picture: Image.Image, label: int, true_name: str, explanation: Explanation
) -> ExplainedPicture:
    prediction = explanation.prediction
    guesses = tuple(
        ClassGuess(text.name(name), 100 * share, guess == label)
        for name, share, guess in zip(
            prediction.names, prediction.probabilities, prediction.classes, strict=True
        )
    )
    branches = {"visual": explanation.visual, "language": explanation.language}
    source, size, enlarged = data_uri(picture)
    return ExplainedPicture(
        source=source,
        size=size,
        enlarged=enlarged,
        name=text.name(true_name),
        right=guesses[0].right,
        guesses=guesses,
        branches={
            name: 100 * share for name, share in branches.items() if share is not None
        },
        sentences=tuple(
            dataclasses.replace(sentence, text=text.sentence(sentence.text))
            for sentence in explanation.sentences
        ),
    )


def data_uri(picture: Image.Image) -> tuple[str, tuple[int, int], bool]:
    """Returns a data URI, the size on the page, and True for an enlarged picture.

    A tiny picture is lossless PNG, enlarged by a whole number. Others become JPEG of at
    most `MAX_SIDE` pixels.
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
