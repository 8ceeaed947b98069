"""Accuracy of every class, the worst of them, and what they are taken for."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from vl_ltr_jax.evaluate.accuracy import Ranking
from vl_ltr_jax.method import shots
from vl_ltr_jax.report.page import text
from vl_ltr_jax.report.page.content import ClassLine, ConfusionLine, PerClass

RULE = "standard"  # of the groups that the page colours by
MAX_CONFUSED = 12  # classes of the matrix, and of the table of the worst
MAX_LISTED = 300  # classes that the page lists
_TAKEN_FOR = 3  # wrong answers that are named


class Mistakes(NamedTuple):
    """Pairs of a true class and a wrong one, the most confused first.

    Attributes:
      true: the true class.
      given: the answer.
      images: how many of the true class had that answer.
    """

    true: Int[np.ndarray, " P"]
    given: Int[np.ndarray, " P"]
    images: Int[np.ndarray, " P"]


def group_names(train_counts: Int[np.ndarray, "C"]) -> list[str]:
    """The group of each class by the standard rule."""
    names = np.full(len(train_counts), "few", object)
    for name, members in shots.shot_groups(train_counts, RULE).items():
        names[members] = name
    return list(names)


def mistakes(ranked: Ranking, num_classes: int) -> Mistakes:
    """Counts the wrong answers.

    A pair comes the earlier, the more images it has and the larger a share of its class
    they are: sorted by the product of both.

    Args:
      ranked: of a split.
      num_classes: C.
    """
    answers = ranked.classes[:, 0].astype(np.int64)
    wrong = answers != ranked.labels
    codes = ranked.labels[wrong].astype(np.int64) * num_classes + answers[wrong]
    pairs, images = np.unique(codes, return_counts=True)
    true, given = np.divmod(pairs, num_classes)
    totals = np.bincount(ranked.labels, minlength=num_classes)
    order = np.argsort(-(images**2) / totals[true], kind="stable")
    return Mistakes(true[order], given[order], images[order])


def per_class(
    split: str,
    ranked: Ranking,
    class_names: Sequence[str],
    train_counts: Int[np.ndarray, "C"],
) -> PerClass:
    """Accuracies and the classes to be listed.

    Args:
      split: its name.
      ranked: of its images.
      class_names: C names.
      train_counts: training images of each class.
    """
    num_classes = len(class_names)
    labels = ranked.labels
    images = np.bincount(labels, minlength=num_classes)
    right = np.bincount(labels[ranked.classes[:, 0] == labels], minlength=num_classes)
    percent = np.where(images > 0, 100 * right / np.maximum(images, 1), np.nan)
    names = tuple(map(text.name, class_names))
    groups = group_names(train_counts)
    wrong = mistakes(ranked, num_classes)

    def line(label: int) -> ClassLine:
        mine = wrong.true == label
        taken = sorted(
            zip(wrong.images[mine].tolist(), wrong.given[mine].tolist(), strict=True),
            key=lambda pair: -pair[0],
        )
        return ClassLine(
            names[label],
            groups[label],
            int(train_counts[label]),
            int(images[label]),
            float(percent[label]),
            tuple((names[given], count) for count, given in taken[:_TAKEN_FOR]),
        )

    with_images = np.flatnonzero(images > 0)
    # Of equally bad ones first that which had most to learn from.
    worst = with_images[np.lexsort((-train_counts[with_images], percent[with_images]))]
    failing = worst[percent[worst] < 100]
    listed = with_images if num_classes <= MAX_LISTED else worst[:MAX_LISTED]
    listed = listed[np.argsort(train_counts[listed], kind="stable")]
    return PerClass(
        split,
        names,
        train_counts,
        images,
        percent,
        tuple(line(int(label)) for label in failing[:MAX_CONFUSED]),
        tuple(line(int(label)) for label in listed),
    )


def confusion(
    ranked: Ranking, class_names: Sequence[str], train_counts: Int[np.ndarray, "C"]
) -> tuple[ConfusionLine, ...]:
    """The confusion matrix of the classes in the most confused pairs.

    Args:
      ranked: of a split.
      class_names: C names.
      train_counts: training images of each class.
    """
    wrong = mistakes(ranked, len(class_names))
    chosen: list[int] = []
    for pair in zip(wrong.true.tolist(), wrong.given.tolist(), strict=True):
        new = [label for label in pair if label not in chosen]
        if len(chosen) + len(new) > MAX_CONFUSED:
            break
        chosen += new
    groups = group_names(train_counts)
    lines = []
    for label in chosen:
        answers = ranked.classes[ranked.labels == label, 0]
        if not len(answers):
            shares, elsewhere = [0.0] * len(chosen), 0.0
        else:
            shares = [100 * float(np.mean(answers == other)) for other in chosen]
            elsewhere = 100 * float(np.mean(~np.isin(answers, chosen)))
        lines.append(
            ConfusionLine(
                text.name(class_names[label]),
                groups[label],
                len(answers),
                tuple(shares),
                elsewhere,
            )
        )
    return tuple(lines)
