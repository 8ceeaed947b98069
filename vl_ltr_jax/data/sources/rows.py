"""Rows of image files, checked against the classes and the files on disk.

Faults are detected before the first image is decoded, with one listing per directory.
"""

import dataclasses
import posixpath
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from vl_ltr_jax.data.images.decode import read_content
from vl_ltr_jax.data.root import Listings, is_utf8, leaves
from vl_ltr_jax.data.sources.dataset import SPLITS, LongTailedData, Split, Texts
from vl_ltr_jax.data.sources.faults import Classes, Faults, Kind, ListError, Offender
from vl_ltr_jax.data.text.class_names import read_class_names
from vl_ltr_jax.logs.messages import near_name, nfc, shortened

_MAX_CLASSES = 1_000_000  # if no label file gives the number


class SplitOverlapError(ListError):
    """An image that is listed for training and for testing."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of one list.

    Attributes:
      file: list, or folder of a split.
      paths: of the images.
      labels: of the images.
      row_name: from an index to a suffix of the file's name.
      left_out: numbers of other files in folders, by reason.
    """

    file: Path
    paths: list[str]
    labels: list[int]
    row_name: Callable[[int], str]
    left_out: Counter[str] = dataclasses.field(default_factory=Counter)

    def where(self, index: int) -> str:
        """Returns the name of a row for messages."""
        return f"{self.file}{self.row_name(index)}"


def read_names(root: Path, layout: str, faults: Faults) -> tuple[str, ...]:
    """Returns the class names; an empty tuple if they are at fault."""
    names: tuple[str, ...] = ()
    with faults.part("class-names", "class names that cannot be read"):
        names = read_class_names(root, layout)
    return names


def from_rows(
    name: str,
    root: Path,
    class_names: Sequence[str],
    read_rows: Callable[[str], Rows | None],
    texts: Texts,
    faults: Faults,
) -> LongTailedData:
    """Returns a data set of image files, its rows checked against classes and files.

    Args:
      name: of the data set.
      root: directory that the paths are relative to.
      class_names: C names; empty if they are at fault.
      read_rows: from a split to its rows; None if validation images are the test.
      texts: place of the texts.
      faults: if it collects, unsound rows are left out and such splits may be empty.

    Raises:
      ListError: names the list, the row and the remedy.
      SplitOverlapError: an image is listed for training and for testing.
    """
    rows: dict[str, Rows] = {}
    test_is_val = False
    for split in SPLITS:
        before = len(faults.findings)
        with faults.part("split-unreadable", f"no {split} images"):
            if (listed := read_rows(split)) is None:
                test_is_val = True
            elif not listed.paths and len(faults.findings) == before:
                raise ListError(f"{listed.file} lists no image. Add at least one.")
            else:
                rows[split] = listed
    labels = (max(listed.labels, default=-1) for listed in rows.values())
    num_classes = len(class_names) or min(max(labels, default=-1) + 1, _MAX_CLASSES)
    listings, classes = Listings(root), Classes(class_names)
    splits = {
        split: _split(listed, root, num_classes, classes, listings, faults)
        for split, listed in rows.items()
    }
    for split in SPLITS:  # those at fault
        splits.setdefault(split, Split(np.zeros(0, np.int32), lambda i: b"", str))
    if test_is_val:
        splits["test"] = splits["val"]
    if not faults.collect and "test" in rows:
        _check_overlap(rows["train"], rows["test"])
    return LongTailedData(
        name=name,
        class_names=tuple(class_names),
        class_texts=texts.read(root, len(class_names)),
        left_out=sum((listed.left_out for listed in rows.values()), Counter()),
        **splits,
    )


def _split(
    rows: Rows,
    root: Path,
    num_classes: int,
    classes: Classes,
    listings: Listings,
    faults: Faults,
) -> Split:
    """Returns the sound rows as a split; reports the others."""
    labels = np.array(rows.labels, np.int64)
    paths = relative(rows)
    sound = np.ones(len(paths), bool)

    def offender(index: int) -> Offender:
        note = shortened(rows.paths[index])
        return classes.offender(rows.where(index), rows.labels[index], note)

    def report(
        code: str,
        bad: Bool[np.ndarray, "N"],
        what: str,
        mend: str,
        offender: Callable[[int], Offender] = offender,
    ) -> None:
        faults.add(
            Kind(code, "error", what, mend),
            np.flatnonzero(bad & sound).tolist(),
            offender,
        )
        sound[bad] = False

    report(
        "label-range",
        (labels < 0) | (labels >= num_classes),
        f"rows with labels outside 0 to {num_classes - 1}",
        f"there are {num_classes} classes, and labels count from 0",
    )
    report(
        "path-outside",
        np.array([leaves(path) for path in paths], bool),
        f"rows with paths that leave data.root={str(root)!r}",
        "list paths below it",
    )
    paths = listings.spelled(
        [path if ok else "" for path, ok in zip(paths, sound, strict=True)]
    )

    def missing(index: int) -> Offender:
        fault = offender(index)
        hint = near_file(paths[index], listings, paths)
        return dataclasses.replace(fault, note=f"no image {fault.note}{hint}")

    report(
        "image-missing",
        listings.missing(paths),
        f"rows without their image under data.root={str(root)!r}",
        "paths are relative to it: set the root that they start from, bring the images "
        "there, or remove the rows",
        missing,
    )
    report(
        "path-not-utf8",
        np.array([not is_utf8(path) for path in paths], bool),
        "images whose names are not UTF-8",
        "rename the files or folders: no report could hold the names",
    )
    indices = np.flatnonzero(sound).tolist()

    def describe(index: int) -> str:
        return f"{root / paths[indices[index]]} ({rows.where(indices[index])})"

    return Split(
        labels=labels[indices].astype(np.int32),
        fetch=lambda i: read_content(root / paths[indices[i]], describe(i)),
        describe=describe,
        path=lambda index: root / paths[indices[index]],
    )


def near_file(path: str, listings: Listings, listed: Collection[str]) -> str:
    """Returns the part of a message that names a file similar to a missing one.

    Args:
      path: missing file.
      listings: of the root.
      listed: paths with rows of their own, which are not suggested.
    """
    for other in listings.differing_by_case(path):
        together = posixpath.dirname(other) == posixpath.dirname(path)
        name = posixpath.basename(other) if together else other
        return f"; did you mean {name!r}?"
    folder = posixpath.dirname(path)
    taken = {posixpath.basename(o) for o in listed if posixpath.dirname(o) == folder}
    return near_name(posixpath.basename(path), listings.beside(path) - taken)


def relative(rows: Rows) -> list[str]:
    """Returns normalised paths; those that leave the root begin with `..`."""
    return [posixpath.normpath(path.lstrip("/")) for path in rows.paths]


def _check_overlap(train: Rows, test: Rows) -> None:
    indices = {nfc(path): index for index, path in enumerate(relative(train))}
    tested = list(map(nfc, relative(test)))
    if common := [number for number, path in enumerate(tested) if path in indices]:
        path = tested[common[0]]
        raise SplitOverlapError(
            f"{test.where(common[0])}: {shortened(path)} is also listed for training, "
            f"at {train.where(indices[path])} ({len(common):,} images in all). Remove "
            "them from one of the lists."
        )
