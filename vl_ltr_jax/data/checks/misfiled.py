"""Whether images lie in folders that are called as another class."""

import collections
import functools
import os
from collections.abc import Mapping, Sequence

import numpy as np

from vl_ltr_jax.data.checks.findings import Classes, Finding, Kind, gather
from vl_ltr_jax.data.checks.pairing import NameIndex, words
from vl_ltr_jax.data.sources.dataset import Split

_DEPTH = 3  # folders that may make up a name, as in Places' /b/bakery/shop
# Folders of a split are called by classes if they are for most of its images.
_MOST, _MANY = 0.8, 0.25


def findings(
    splits: Mapping[str, Split], class_names: Sequence[str], wnids: Sequence[str] = ()
) -> list[Finding]:
    """Images in folders of other classes, where folders are called by classes at all.

    Labels of a list that were numbered in another order than the label file have every
    image right where it is, and every name wrong.

    Args:
      splits: by name; images without paths are left out.
      class_names: C names.
      wnids: C names of folders, with ImageNet.
    """
    names = [(wnid,) for wnid in wnids] or NameIndex(class_names).names
    labels: dict[tuple[str, ...], int] = {}
    for label, name in enumerate(names):
        labels[name] = -1 if name in labels else label  # of several classes: of none

    @functools.cache
    def class_of(folder: str) -> int:
        parts = folder.split(os.sep)
        for depth in range(_DEPTH, 0, -1):
            tail = parts[-depth:]
            found = labels.get((parts[-1],) if wnids else words(" ".join(tail)), -1)
            if found >= 0:
                return found
        return -1

    total, wrong = 0, []
    for split in splits.values():
        if split.path is None:
            continue
        path = split.path
        told = [class_of(os.path.dirname(path(index))) for index in range(len(split))]
        if np.count_nonzero(np.array(told) >= 0) < _MOST * len(split):
            continue
        total += len(split)
        for index in np.flatnonzero(told != split.labels).tolist():
            if told[index] >= 0:
                wrong.append((split, index, told[index]))
    # Of each folder one image, and then the others.
    of_folder: collections.Counter[tuple[int, int]] = collections.Counter()
    ranked = []
    for split, index, folder in wrong:
        key = int(split.labels[index]), folder
        ranked.append((of_folder[key], split, index, folder))
        of_folder[key] += 1
    ranked.sort(key=lambda row: row[0])
    classes = Classes(class_names)
    return gather(
        Kind(
            "folder-of-other-class",
            "error" if len(wrong) >= _MANY * total else "warning",
            "images in a folder that is called as another class than their label",
            "see whether lists and label file number the classes alike",
        ),
        ranked,
        lambda row: classes.offender(
            row[1].describe(row[2]),
            int(row[1].labels[row[2]]),
            f"its folder is class {row[3]} {class_names[row[3]]!r}",
        ),
    )
