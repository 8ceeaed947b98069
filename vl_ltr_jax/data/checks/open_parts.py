"""A data set opened part by part, so that one fault does not hide the others.

A run stops at the first fault of a label file or list. Here the rows that are sound are
kept, and each kind of fault becomes a finding with its rows.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from vl_ltr_jax.data.checks import open_rows
from vl_ltr_jax.data.checks.findings import (
    Classes,
    Finding,
    Kind,
    Offender,
    gather,
    has_errors,
)
from vl_ltr_jax.data.checks.open_rows import Place
from vl_ltr_jax.data.images.decode import read_content
from vl_ltr_jax.data.root import Listings, is_utf8, leaves
from vl_ltr_jax.data.sources import dataset
from vl_ltr_jax.data.sources.dataset import SPLITS, LongTailedData, Rows, Split
from vl_ltr_jax.data.text.class_names import read_class_names
from vl_ltr_jax.data.text.files import read_text_file
from vl_ltr_jax.storage import strict_json

_LARGEST_LABEL = 999_999  # where nothing else says how many classes there are


@dataclasses.dataclass(frozen=True)
class Parts:
    """What could be opened.

    Attributes:
      class_names: C names; none where the label file cannot be read.
      num_classes: C; without names, as many as the label file has rows, or one more
        than the largest label.
      splits: those that could be opened, with their sound rows.
      texts: C texts, where the source makes them itself.
      findings: what could not.
      left_out: number of files in folders that are no images, by reason.
    """

    class_names: tuple[str, ...]
    num_classes: int
    splits: Mapping[str, Split]
    texts: tuple[str, ...]
    findings: list[Finding]
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)


def open_parts(read: Callable[[], LongTailedData], place: Place) -> Parts:
    """Opens a data set as a run does, or else what can be opened of it.

    Args:
      read: reads it as a run does, without the texts that are files.
      place: where its files are.
    """
    again = open_rows.repeated_annotations(place)
    try:
        data = read()
    except (ValueError, OSError) as error:
        parts = _salvage(place)
        found = parts.findings
        # Images of two splits are told of with all others that are given twice.
        overlap = isinstance(error, dataset.SplitOverlapError)
        if not overlap and not has_errors(found):
            found = _fault("unopened", "the data set cannot be opened", error)
        return dataclasses.replace(parts, findings=found + again)
    splits = {split: getattr(data, split) for split in SPLITS}
    names = data.class_names
    return Parts(names, len(names), splits, data.class_texts, again, data.left_out)


def _fault(code: str, what: str, error: Exception) -> list[Finding]:
    """A finding of one message, which says how to mend it."""
    offenders = (Offender(str(error)),)
    return [Finding(code, "error", what, "", 1, offenders)]


def _salvage(place: Place) -> Parts:
    names: tuple[str, ...] = ()
    found: list[Finding] = []
    if place.source not in ("image_list", "inat18", "image_folder"):
        return Parts(names, 0, {}, (), found)
    labels_file = "categories.json" if place.layout == "inat18" else "labels.txt"
    is_there = (place.root / labels_file).is_file()
    if is_there or place.source != "image_folder":
        try:
            names = read_class_names(place.root, place.layout)
        except (ValueError, OSError) as error:
            found += _fault("class-names", "class names that cannot be read", error)
    rows: dict[str, Rows] = {}
    for split in SPLITS:
        try:
            read = open_rows.read(place, split, names)
        except (ValueError, OSError) as error:
            found += _fault("split-unreadable", f"no {split} images", error)
            continue
        if read is not None:
            rows[split], faults = read
            if not rows[split].paths and not faults:
                empty = dataset.ListError(f"{rows[split].file} lists no image")
                faults = _fault("split-unreadable", f"no {split} images", empty)
            found += faults
        elif "val" in rows:  # stands in for a test that has no list
            rows[split] = rows["val"]
    num_classes = len(names) or _rows_of_label_file(place.root / labels_file)
    if not num_classes:
        most = max((max(r.labels, default=-1) for r in rows.values()), default=-1)
        num_classes = min(most, _LARGEST_LABEL) + 1
    splits: dict[str, Split] = {}
    done: dict[int, Split] = {}
    listings = Listings(place.root)
    for split, listed in rows.items():
        if id(listed) not in done:
            sound, faults = _sound(listed, place, num_classes, names, listings)
            done[id(listed)] = sound
            found += faults
        if len(done[id(listed)]):
            splits[split] = done[id(listed)]
    left_out = dataset.sum_left_out(rows.values())
    return Parts(names, num_classes, splits, (), found, left_out)


def _rows_of_label_file(file: Path) -> int:
    """How many classes a file of names means to have; 0 where that is not known."""
    try:
        text = read_text_file(file)
        if file.suffix == ".json":
            return len(strict_json.parse(text))
        return sum(bool(line.strip()) for line in text.split("\n"))
    except (OSError, ValueError, TypeError):
        return 0


def _sound(
    rows: Rows,
    place: Place,
    num_classes: int,
    names: Sequence[str],
    listings: Listings,
) -> tuple[Split, list[Finding]]:
    """The rows that fit classes and files, and findings of the others."""
    root = place.root
    paths = listings.spelled(dataset.relative(rows))
    kept: list[int] = []
    outside: list[int] = []
    leaving: list[int] = []
    missing: list[int] = []
    unnamed: list[int] = []
    gone = listings.missing(paths)
    for index, path in enumerate(paths):
        if not 0 <= rows.labels[index] < num_classes:
            outside.append(index)
        elif leaves(path):
            leaving.append(index)
        elif gone[index]:
            missing.append(index)
        elif not is_utf8(path):
            unnamed.append(index)
        else:
            kept.append(index)
    classes = Classes(names)

    def offender(index: int) -> Offender:
        return classes.offender(
            rows.where(index), rows.labels[index], rows.paths[index]
        )

    found = gather(
        Kind(
            "label-range",
            "error",
            f"rows with labels outside 0 to {num_classes - 1}",
            f"there are {num_classes} classes, and labels count from 0",
        ),
        outside,
        offender,
    )
    found += gather(
        Kind(
            "path-outside",
            "error",
            f"rows with paths that leave the root {root}",
            "list paths below data.root",
        ),
        leaving,
        offender,
    )
    found += gather(
        Kind(
            "image-missing",
            "error",
            f"rows without their image under {root}",
            "paths are relative to the root: set the root that they start from, bring "
            "the images there, or remove the rows",
        ),
        missing,
        lambda index: dataclasses.replace(
            offender(index),
            note=rows.paths[index] + dataset.near_file(paths[index], listings, paths),
        ),
    )
    found += gather(
        Kind(
            "path-not-utf8",
            "error",
            "images whose names are not UTF-8",
            "rename the files or folders: no report could hold the names",
        ),
        unnamed,
        offender,
    )

    def describe(index: int) -> str:
        return f"{root / paths[kept[index]]} ({rows.where(kept[index])})"

    split = Split(
        labels=np.array([rows.labels[index] for index in kept], np.int32),
        fetch=lambda i: read_content(root / paths[kept[i]], describe(i)),
        describe=describe,
        path=lambda index: root / paths[kept[index]],
        orientation=place.orientation,
    )
    return split, found
