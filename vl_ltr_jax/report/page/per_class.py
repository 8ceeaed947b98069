"""Accuracy of every class, the worst classes, and their confusions."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from vl_ltr_jax.evaluate.accuracy import Ranking
from vl_ltr_jax.method import shots
from vl_ltr_jax.report.page import text
from vl_ltr_jax.report.page.content import ClassLine, ConfusionLine, PerClass

RULE = "standard"  # shot rule of the page's colours
MAX_CONFUSED = 12  # classes of the matrix, and of the table of the worst classes
MAX_LISTED = 300  # classes of the page's table
_TAKEN_FOR = 3  # wrong classes in a line


class Mistakes(NamedTuple):
    """Pairs of a true and a predicted class, most confused first, with images."""

    true: Int[np.ndarray, " P"]
    predicted: Int[np.ndarray, " P"]
    images: Int[np.ndarray, " P"]


def group_names(train_counts: Int[np.ndarray, "C"]) -> list[str]:
    """Returns the group of each class by the standard rule."""
    names = np.full(len(train_counts), "few", object)
    for name, members in shots.shot_groups(train_counts, RULE).items():
        names[members] = name
    return list(names)


def mistakes(ranking: Ranking, num_classes: int) -> Mistakes:
    """Returns pairs sorted by their images times their share of the true class."""
    predicted = ranking.classes[:, 0].astype(np.int64)
    wrong = predicted != ranking.labels
    codes = ranking.labels[wrong].astype(np.int64) * num_classes + predicted[wrong]
    pairs, images = np.unique(codes, return_counts=True)
    true, predicted = np.divmod(pairs, num_classes)
    totals = np.bincount(ranking.labels, minlength=num_classes)
    order = np.argsort(-(images**2) / totals[true], kind="stable")
    return Mistakes(true[order], predicted[order], images[order])


def per_class(
    split: str,
    ranking: Ranking,
    class_names: Sequence[str],
    train_counts: Int[np.ndarray, "C"],
) -> PerClass:
    """Returns accuracies, and the classes of the page's tables.

    Args:
      split: name of the split.
      ranking: images of the split.
      class_names: C names.
      train_counts: training images of each class.
    """
    num_classes = len(class_names)
    labels = ranking.labels
    images = np.bincount(labels, minlength=num_classes)
    right = np.bincount(labels[ranking.classes[:, 0] == labels], minlength=num_classes)
    percent = np.where(images > 0, 100 * right / np.maximum(images, 1), np.nan)
    names = tuple(map(text.name, class_names))
    groups = group_names(train_counts)
    wrong = mistakes(ranking, num_classes)

    def line(label: int) -> ClassLine:
        mine = wrong.true == label
        order = np.argsort(-wrong.images[mine], kind="stable")[:_TAKEN_FOR]
        wrong_labels, counts = wrong.predicted[mine][order], wrong.images[mine][order]
        return ClassLine(
            names[label],
            groups[label],
            int(train_counts[label]),
            int(images[label]),
            float(percent[label]),
            tuple(
                (names[o], int(n)) for o, n in zip(wrong_labels, counts, strict=True)
            ),
        )

    with_images = np.flatnonzero(images > 0)
    # Of equal accuracies the class with more training images comes first.
    worst = with_images[np.lexsort((-train_counts[with_images], percent[with_images]))]
    failing = worst[percent[worst] < 100]
    listed = with_images if num_classes <= MAX_LISTED else worst[:MAX_LISTED]
    listed = listed[np.argsort(train_counts[listed], kind="stable")]
    return PerClass(
        split,
        names,
        train_counts,
        percent,
        tuple(line(int(label)) for label in failing[:MAX_CONFUSED]),
        tuple(line(int(label)) for label in listed),
    )


def confusion(
    ranking: Ranking, class_names: Sequence[str], train_counts: Int[np.ndarray, "C"]
) -> list[ConfusionLine]:
    """Returns the confusion matrix of the classes in the most confused pairs."""
    wrong = mistakes(ranking, len(class_names))
    chosen: list[int] = []
    for pair in zip(wrong.true.tolist(), wrong.predicted.tolist(), strict=True):
        new = [label for label in pair if label not in chosen]
        if len(chosen) + len(new) > MAX_CONFUSED:
            break
        chosen += new
    lines = []
    for label in chosen:
        predicted = ranking.classes[ranking.labels == label, 0]
        size = max(len(predicted), 1)
        shares = (100 * float(np.sum(predicted == other) / size) for other in chosen)
        elsewhere = 100 * float(np.sum(~np.isin(predicted, chosen)) / size)
        name = text.name(class_names[label])
        lines.append(ConfusionLine(name, tuple(shares), elsewhere))
    return lines
