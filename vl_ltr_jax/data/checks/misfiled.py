"""Images in folders that are called as another class."""

import collections
import functools
import os
from collections.abc import Mapping, Sequence

import numpy as np

from vl_ltr_jax.data.checks.pairing import NameIndex, words
from vl_ltr_jax.data.sources.dataset import Split
from vl_ltr_jax.data.sources.faults import Classes, Finding, Kind, gather

_DEPTH = 3  # folders that may make up a name, as in Places' /b/bakery/shop
# Folders of a split are called by classes if they are for most of its images.
_MOST, _MANY = 0.8, 0.25


def findings(
    splits: Mapping[str, Split], class_names: Sequence[str], wnids: Sequence[str] = ()
) -> list[Finding]:
    """Returns images in folders of other classes, if folders are called by classes.

    This finds lists whose labels follow another order than the label file.

    Args:
      splits: by name; images without paths are skipped.
      class_names: C names.
      wnids: C names of folders, with ImageNet.
    """
    names = [(wnid,) for wnid in wnids] or NameIndex(class_names).names
    labels: dict[tuple[str, ...], int] = {}
    for label, name in enumerate(names):
        labels[name] = -1 if name in labels else label  # ambiguous

    @functools.cache
    def class_of(folder: str) -> int:
        parts = folder.split(os.sep)
        for depth in range(_DEPTH, 0, -1):
            tail = parts[-depth:]
            label = labels.get((parts[-1],) if wnids else words(" ".join(tail)), -1)
            if label >= 0:
                return label
        return -1

    total, wrong = 0, []
    for split in splits.values():
        if split.path is None:
            continue
        path = split.path
        classes = [class_of(os.path.dirname(path(i))) for i in range(len(split))]
        if np.count_nonzero(np.array(classes) >= 0) < _MOST * len(split):
            continue
        total += len(split)
        for index in np.flatnonzero(classes != split.labels).tolist():
            if classes[index] >= 0:
                wrong.append((split, index, classes[index]))
    # One image of each folder first.
    counts: collections.Counter[tuple[int, int]] = collections.Counter()
    ranked = []
    for split, index, folder in wrong:
        key = int(split.labels[index]), folder
        ranked.append((counts[key], split, index, folder))
        counts[key] += 1
    ranked.sort(key=lambda row: row[0])
    names_of = Classes(class_names)
    return gather(
        Kind(
            "folder-of-other-class",
            "error" if len(wrong) >= _MANY * total else "warning",
            "images in a folder that is called as another class than their label",
            "see whether lists and label file number the classes alike",
        ),
        ranked,
        lambda row: names_of.offender(
            row[1].describe(row[2]),
            int(row[1].labels[row[2]]),
            f"its folder is class {row[3]} {class_names[row[3]]!r}",
        ),
    )
