"""Membership of images in splits and classes: repeated and absent ones.

An image that is trained on and tested on makes accuracy a measure of memory. One with
two labels teaches that both are wrong.
"""

import collections
import dataclasses
import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Int

from vl_ltr_jax.data.checks.inspection import ImageFacts
from vl_ltr_jax.data.sources.dataset import SPLITS, Split
from vl_ltr_jax.data.sources.faults import Classes, Finding, Kind, Offender, gather

_Row = tuple[str, int, int]  # split, index and label of an image
_BY_PATH: dict[str, Kind] = {
    "leak": Kind(
        "split-overlap",
        "error",
        "training images that are listed for validation or testing too",
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
        "remove them from one list: validation images choose anchor sentences",
    ),
}
_BY_CONTENT: dict[str, Kind] = {
    "leak": Kind(
        "leak",
        "error",
        "training images that have another name in validation or testing",
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
    """Returns classes without any image of a split.

    Args:
      labels: of the images of each split.
      classes: all C; without names the result is empty.
    """
    findings = []
    for split, own in labels.items():
        counts = np.bincount(own, minlength=len(classes.names))
        empty = np.flatnonzero(counts[: len(classes.names)] == 0).tolist()
        kind = Kind(
            f"class-without-{split}",
            "error" if split == "train" else "warning",
            f"classes without a {split} image",
            "add images of them, or remove the classes from the label file and renumber"
            if split == "train"
            else "add images of them: their accuracy is unknown otherwise",
        )
        findings += gather(kind, empty, functools.partial(classes.offender, split))
    return findings


def repeated_rows(splits: Mapping[str, Split], classes: Classes) -> list[Finding]:
    """Returns images that are listed more than once, by their paths.

    A test split that is the validation split, as with iNaturalist 2018, is no fault.

    Args:
      splits: by name; those without paths are skipped.
      classes: names for the report.
    """
    return _findings(splits, classes, _BY_PATH, _by_path(splits).values())


def repeated_content(
    splits: Mapping[str, Split],
    images: Mapping[str, Sequence[ImageFacts]],
    classes: Classes,
    *,
    published: bool = False,
) -> list[Finding]:
    """Returns images that are equal under several paths.

    Args:
      splits: by name.
      images: returned by `inspection.inspect`.
      classes: names for the report.
      published: True for the lists of a benchmark, which everyone uses unchanged; equal
        images are a warning there.
    """
    contents: dict[bytes, list[_Row]] = collections.defaultdict(list)
    for group in _by_path(splits).values():  # one row of each path
        split, index, _ = group[0]
        if not images[split][index].error:
            contents[images[split][index].sha256].append(group[0])
    kinds = dict(_BY_CONTENT)
    if published:
        mend = "nothing: the benchmark has them; know it where you read accuracies"
        kinds = {
            name: dataclasses.replace(kind, severity="warning", mend=mend)
            for name, kind in kinds.items()
        }
    return _findings(splits, classes, kinds, contents.values())


def _by_path(splits: Mapping[str, Split]) -> dict[str, list[_Row]]:
    """Returns the rows of each image; one without a path is a path of its own."""
    rows: dict[str, list[_Row]] = collections.defaultdict(list)
    for name in SPLITS:
        if name not in splits or (name == "test" and splits.get("val") is splits[name]):
            continue
        split = splits[name]
        for index, label in enumerate(split.labels.tolist()):
            path = f"{name} {index}" if split.path is None else split.path(index)
            rows[os.fspath(path)].append((name, index, label))
    return rows


def _faults(group: Sequence[_Row]) -> Iterator[tuple[str, _Row, _Row]]:
    """Yields the faults of the rows of one image, each with two rows that prove it.

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


def _findings(
    splits: Mapping[str, Split],
    classes: Classes,
    kinds: Mapping[str, Kind],
    groups: Iterable[Sequence[_Row]],
) -> list[Finding]:
    pairs: dict[str, list[tuple[_Row, _Row]]] = collections.defaultdict(list)
    for group in groups:
        if len(group) > 1:
            for name, first, second in _faults(group):
                pairs[name].append((first, second))

    def offender(pair: tuple[_Row, _Row]) -> Offender:
        (split, index, label), (other, other_index, other_label) = pair
        note = f"also {other} {splits[other].describe(other_index)}"
        if label != other_label:
            note += f", as {classes.offender('', other_label)}".replace("  ", " ")
        return classes.offender(splits[split].describe(index), label, note)

    return [
        finding
        for name, kind in kinds.items()
        for finding in gather(kind, pairs[name], offender)
    ]
