"""Which images are in which split and class: what is given twice, and what is absent.

An image that is both trained on and tested on makes accuracy a measure of memory; one
with two labels teaches that both are wrong.
"""

import collections
import dataclasses
import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Int

from vl_ltr_jax.data.checks.findings import Classes, Finding, Kind, Offender, gather
from vl_ltr_jax.data.checks.inspection import Seen
from vl_ltr_jax.data.sources.dataset import SPLITS, Split

# An image as split, index and label.
_Row = tuple[str, int, int]
_BY_PATH: dict[str, Kind] = {
    "leak": Kind(
        "split-overlap",
        "error",
        "images that are trained on, and listed for validation or testing too",
        "remove them from one of the lists",
    ),
    "labels": Kind(
        "two-labels",
        "error",
        "images with two labels",
        "remove the rows that are wrong",
    ),
    "twice": Kind(
        "duplicate-row",
        "warning",
        "images listed twice",
        "remove one of the rows, unless the image shall count twice",
    ),
    "val-test": Kind(
        "val-test-overlap",
        "warning",
        "images that are listed for validation and for testing",
        "remove them from one of the lists: anchor sentences are chosen by validation "
        "images",
    ),
}
_BY_CONTENT: dict[str, Kind] = {
    "leak": Kind(
        "leak",
        "error",
        "images that are trained on, and are in validation or testing too under "
        "another name",
        "remove one of the two",
    ),
    "labels": Kind(
        "contradictory-content",
        "error",
        "equal images with different labels",
        "remove the rows with the wrong label",
    ),
    "twice": Kind(
        "duplicate-content",
        "warning",
        "equal images under several names",
        "remove all but one, unless it shall count as often",
    ),
    "val-test": Kind(
        "val-test-content",
        "warning",
        "equal images in validation and testing under several names",
        "remove one of the two",
    ),
}


def coverage(
    labels: Mapping[str, Int[np.ndarray, "_"]], classes: Classes
) -> list[Finding]:
    """Classes without any image of a split.

    Args:
      labels: of the images of each split.
      classes: all C; without names, nothing is known of them and nothing found.
    """
    found = []
    for split, of in labels.items():
        counts = np.bincount(of, minlength=len(classes.names))
        empty = np.flatnonzero(counts[: len(classes.names)] == 0).tolist()
        kind = Kind(
            f"class-without-{split}",
            "error" if split == "train" else "warning",
            f"classes without a {split} image",
            "add images of them, or take the classes out of the label file and number "
            "the others anew"
            if split == "train"
            else "add images of them: nothing is known of their accuracy otherwise",
        )
        found += gather(kind, empty, functools.partial(classes.offender, split))
    return found


def repeated_rows(splits: Mapping[str, Split], classes: Classes) -> list[Finding]:
    """Images that are listed more than once, by their paths.

    That the test is the validation split, as with iNaturalist 2018, is no fault.

    Args:
      splits: by name; those without paths are left out.
      classes: names for the report.
    """
    rows = _by_path(splits)
    groups = (group for group in rows.values() if len(group) > 1)
    return _told(splits, classes, _BY_PATH, groups)


def repeated_content(
    splits: Mapping[str, Split],
    seen: Mapping[str, Sequence[Seen]],
    classes: Classes,
    *,
    published: bool = False,
) -> list[Finding]:
    """Images that are equal under several paths.

    Args:
      splits: by name.
      seen: what `inspection.inspect` found of them.
      classes: names for the report.
      published: whether these are the lists of a benchmark, which everyone uses as they
        are; what is equal in them is a warning.
    """
    contents: dict[bytes, list[_Row]] = collections.defaultdict(list)
    for group in _by_path(splits).values():  # one row of each path
        split, index, _ = group[0]
        if not seen[split][index].error:
            contents[seen[split][index].sha256].append(group[0])
    kinds = dict(_BY_CONTENT)
    if published:
        mend = "nothing: the benchmark has them; know it where you read accuracies"
        kinds = {
            name: dataclasses.replace(kind, severity="warning", mend=mend)
            for name, kind in kinds.items()
        }
    groups = (group for group in contents.values() if len(group) > 1)
    return _told(splits, classes, kinds, groups)


def _by_path(splits: Mapping[str, Split]) -> dict[str, list[_Row]]:
    """The rows of each image; an image without a path is a path of its own."""
    rows: dict[str, list[_Row]] = collections.defaultdict(list)
    for name in SPLITS:
        if name not in splits or (name == "test" and _same_images(splits)):
            continue
        split = splits[name]
        for index, label in enumerate(split.labels.tolist()):
            path = f"{name} {index}" if split.path is None else split.path(index)
            rows[os.fspath(path)].append((name, index, label))
    return rows


def _same_images(splits: Mapping[str, Split]) -> bool:
    """Whether the test is the validation split."""
    val, test = splits.get("val"), splits.get("test")
    if val is test:
        return True
    if val is None or test is None or len(val) != len(test):
        return False
    if val.path is None or test.path is None:
        return False
    return all(val.path(index) == test.path(index) for index in range(len(val)))


def _faults(group: Sequence[_Row]) -> Iterator[tuple[str, _Row, _Row]]:
    """What is wrong with rows of one image, each with two rows that show it.

    Rows of training come first, so the first row differs from another if any does.
    """
    first, second, *_ = group
    apart = [row for row in group if first[0] == "train" != row[0]]
    unlike = [row for row in group if first[2] != row[2]]
    if apart:
        yield "leak", first, apart[0]
    if unlike:
        yield "labels", first, unlike[0]
    if first[0] == second[0] and not unlike:
        yield "twice", first, second
    if first[0] != second[0] and first[0] != "train":
        yield "val-test", first, second


def _told(
    splits: Mapping[str, Split],
    classes: Classes,
    kinds: Mapping[str, Kind],
    groups: Iterable[Sequence[_Row]],
) -> list[Finding]:
    of_kind: dict[str, list[tuple[_Row, _Row]]] = collections.defaultdict(list)
    for group in groups:
        for name, first, second in _faults(group):
            of_kind[name].append((first, second))

    def offender(pair: tuple[_Row, _Row]) -> Offender:
        (split, index, label), (other, there, other_label) = pair
        note = f"also {other} {splits[other].describe(there)}"
        if label != other_label:
            note += f", as {classes.offender('', other_label)}".replace("  ", " ")
        return classes.offender(splits[split].describe(index), label, note)

    return [
        finding
        for name, kind in kinds.items()
        for finding in gather(kind, of_kind[name], offender)
    ]
