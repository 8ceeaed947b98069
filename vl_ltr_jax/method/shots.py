"""Many-, medium- and few-shot accuracy: classes grouped by their training images."""

import numpy as np
from jaxtyping import Bool, Int, Real

# Smallest and largest training count of each group, inclusive; None is open.
SHOT_RULES: dict[str, dict[str, tuple[int, int | None]]] = {
    "standard": {"many": (101, None), "medium": (20, 100), "few": (0, 19)},
    "vl_ltr": {"many": (100, None), "medium": (21, 99), "few": (1, 20)},
}


def shot_groups(
    train_counts: Int[np.ndarray, " C"], rule: str
) -> dict[str, Bool[np.ndarray, " C"]]:
    """Returns the classes of each group.

    Args:
      train_counts: training images of each class.
      rule: 'standard', OLTR's convention (>100, 20 to 100, <20), or 'vl_ltr', the
        authors' code (>99, 21 to 99, 1 to 20: a class without training images is in
        no group).

    Returns:
      A mask over classes for 'many', 'medium' and 'few'.
    """
    return {
        name: (train_counts >= low)
        & (train_counts <= (np.inf if high is None else high))
        for name, (low, high) in SHOT_RULES[rule].items()
    }


def shot_accuracies(
    correct_per_class: Real[np.ndarray, " C"],
    total_per_class: Real[np.ndarray, " C"],
    train_counts: Int[np.ndarray, " C"],
    rule: str,
) -> dict[str, float | None]:
    """Returns the accuracy of each group of classes, in percent.

    Under 'standard' it is the mean over the group's classes, as OLTR's `shot_acc` has
    it. Under 'vl_ltr' it is the mean over the group's test images, as in VL-LTR's code.
    The two agree where the test set is balanced.

    Differs from VL-LTR: a group without test images has no accuracy (None), where the
    authors report 0.

    Args:
      correct_per_class: hits among the test images of each class.
      total_per_class: test images of each class.
      train_counts: training images of each class.
      rule: see :func:`shot_groups`.
    """
    accuracy = image_mean if rule == "vl_ltr" else class_mean
    return {
        name: accuracy(correct_per_class[members], total_per_class[members])
        for name, members in shot_groups(train_counts, rule).items()
    }


def class_mean(
    correct_per_class: Real[np.ndarray, " C"], total_per_class: Real[np.ndarray, " C"]
) -> float | None:
    """Returns the mean of the classes' accuracies, in percent; None without images.

    Classes without images have no effect.
    """
    tested = total_per_class > 0
    if not tested.any():
        return None
    return 100.0 * float(np.mean(correct_per_class[tested] / total_per_class[tested]))


def image_mean(
    correct_per_class: Real[np.ndarray, " C"], total_per_class: Real[np.ndarray, " C"]
) -> float | None:
    """Returns the share of correct images, in percent; None without images."""
    total = float(total_per_class.sum())
    return 100.0 * float(correct_per_class.sum()) / total if total else None
