"""Long-tailed data sets: which image is of which class, and what its texts say.

:class:`LongTailedData` is the one interface of all sources. Here, list files with a row
`relative/path label` per image (ImageNet-LT, Places-LT and one's own data) and the JSON
files of iNaturalist 2018; `folders` has directories of classes, `prepared` what
tensorflow-datasets has prepared, `shapes` the embedded world. Everything that can be
wrong with rows is found before the first image is decoded, with one directory listing
per directory.
"""

import dataclasses
import os
import posixpath
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeGuard

import numpy as np
from jaxtyping import Bool, Int, Int32, Int64
from PIL import Image

from vl_ltr_jax import json_text
from vl_ltr_jax.data import corpus
from vl_ltr_jax.data.class_names import near_name
from vl_ltr_jax.data.images import Picture, as_image, decode_image, read_listed
from vl_ltr_jax.data.roots import (
    LARGEST_LIST,
    Listings,
    Root,
    RootLike,
    is_utf8,
    leads_out,
    leaves,
)
from vl_ltr_jax.data.text_files import read_text_file
from vl_ltr_jax.terminal import shortened

SPLITS = ("train", "val", "test")


class ListError(ValueError):
    """A list of images that is missing, malformed or does not fit the files."""


class SplitOverlapError(ListError):
    """An image that is listed for training and for testing."""


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """The images of one split.

    Attributes:
      labels: class of each image, from 0.
      fetch: index to the encoded file, or to a picture that is made in memory; raises
        ImageReadError where storage does not give it.
      describe: index to a name of the image for messages.
      path: index to the image's file, where each has one.
    """

    labels: Int32[np.ndarray, "N"]
    fetch: Callable[[int], bytes | Image.Image]
    describe: Callable[[int], str]
    path: Callable[[int], Path] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Image.Image:
        """An image as RGB.

        Raises:
          ImageReadError: if it is missing or damaged.
        """
        return as_image(self.decode(index, self.fetch(index)))

    def decode(self, index: int, fetched: bytes | Image.Image) -> Picture:
        """What :attr:`fetch` gave, as RGB.

        Raises:
          ImageReadError: if it is not an image, see `images.decode_image`.
        """
        if isinstance(fetched, Image.Image):
            return fetched
        return decode_image(fetched, self.describe(index))

    def select(self, indices: Int[np.ndarray, "K"]) -> "Split":
        """The images at `indices`, in that order."""
        path = self.path
        return Split(
            labels=self.labels[indices],
            fetch=lambda index: self.fetch(int(indices[index])),
            describe=lambda index: self.describe(int(indices[index])),
            path=path and (lambda index: path(int(indices[index]))),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class LongTailedData:
    """A data set: names and texts of C classes, and three splits."""

    name: str
    class_names: tuple[str, ...]
    class_texts: tuple[str, ...]
    train: Split
    val: Split
    test: Split

    @property
    def train_counts(self) -> Int64[np.ndarray, "C"]:
        """Training images per class."""
        return np.bincount(self.train.labels, minlength=len(self.class_names))


@dataclasses.dataclass(frozen=True)
class Texts:
    """Where the texts of the classes are.

    Attributes:
      root: directory that holds `wiki/` or its archive; None: the data set's own.
      encoding: see `text_files.read_text_file`.
      absent: there are none: prompts are all that a class has.
    """

    root: RootLike | None = None
    encoding: str = "auto"
    absent: bool = False

    def read(self, data_root: RootLike, num_classes: int) -> tuple[str, ...]:
        """The text of every class, in label order.

        Raises:
          ValueError: for a class without a text, or one that cannot be decoded.
        """
        if self.absent:
            return ("",) * num_classes
        return corpus.read_texts(self.root or data_root, num_classes, self.encoding)


WIKI = Texts()


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of one list, as read: paths, labels, and what to call a row."""

    file: Path
    paths: list[str]
    labels: list[int]
    row_name: Callable[[int], str]

    def where(self, index: int) -> str:
        """A row, for messages."""
        return f"{self.file}{self.row_name(index)}"


def read_image_list(
    root: RootLike,
    name: str,
    layout: str = "plain",
    *,
    lists: Mapping[str, str] | None = None,
    texts: Texts = WIKI,
) -> LongTailedData:
    """Reads a data set given by list files.

    Args:
      root: directory that holds the lists and that the listed paths are relative to;
        a leading slash of a path is ignored. What leads out of it, by `..` or by a
        link, is refused, see :class:`roots.Root`.
      name: of the data set; the lists are `root/NAME_{train,val,test}.txt`.
      layout: how class names are written, see `corpus.read_class_names`.
      lists: other file names under `root` by split, such as
        `{'train': 'Places_LT_train.txt'}`.
      texts: where the texts are.

    Raises:
      ListError: names the list, the line, and what to change.
      SplitOverlapError: if an image is listed for training and for testing.
    """
    root = Root.of(root)
    names = {split: f"{name}_{split}.txt" for split in SPLITS} | dict(lists or {})
    if unknown := sorted(set(names) - set(SPLITS)):
        raise ListError(f"lists: {unknown} given, allowed are {list(SPLITS)}")
    class_names = corpus.read_class_names(root, layout)
    rows = {split: _read_list(list_file(root, names[split])) for split in SPLITS}
    return from_rows(name, root, class_names, rows, texts)


def read_inat18(root: RootLike, *, texts: Texts = WIKI) -> LongTailedData:
    """Reads iNaturalist 2018 from `train2018.json` and `val2018.json`.

    Labels are category ids. The test split is that of `test2018.json` where the file
    has annotations, and the validation split otherwise, as in the paper.

    Raises:
      ListError: names the file, the image, and what to change.
      SplitOverlapError: if an image is listed for training and for testing.
    """
    root = Root.of(root)
    class_names = corpus.read_class_names(root, "inat18")
    rows = {split: _read_json(root, f"{split}2018.json") for split in SPLITS[:2]}
    test = "test2018.json"
    rows["test"] = _read_json(root, test) if has_labels(root, test) else rows["val"]
    return from_rows("inat18", root, class_names, rows, texts)


def list_file(root: Root, name: str) -> Path:
    """The path of a list; one that a person places outside the root may lie there.

    Raises:
      FileError: if a list of the root is a link that leads out of it.
    """
    given = posixpath.normpath(name)
    is_inside = not posixpath.isabs(given) and not leaves(given)
    return root.check(name) if is_inside else root / name


def has_labels(root: Root, name: str) -> bool:
    """Whether a JSON file of iNaturalist is there, and not one of withheld labels.

    Raises:
      FileError: if it cannot be read.
    """
    there = os.path.exists(root / name)
    return there and b'"annotations"' in root.read(name, LARGEST_LIST)


def from_rows(
    name: str,
    root: Root,
    class_names: Sequence[str],
    rows: Mapping[str, Rows],
    texts: Texts,
) -> LongTailedData:
    """A data set of image files, its rows checked against classes and files.

    Args:
      name: of the data set.
      root: directory that the paths are relative to.
      class_names: C names.
      rows: by split.
      texts: where the texts are.

    Raises:
      ListError: names the list, the row, and what to change.
      SplitOverlapError: if an image is listed for training and for testing.
    """
    listings = Listings(root)
    splits = {s: _split(rows[s], root, class_names, listings) for s in SPLITS}
    _check_overlap(rows["train"], rows["test"])
    return LongTailedData(
        name=name,
        class_names=tuple(class_names),
        class_texts=texts.read(root, len(class_names)),
        **splits,
    )


def _read_list(file: Path) -> Rows:
    if not file.is_file():
        near = [path.name for path in file.parent.glob("*.txt") if path.is_file()]
        raise ListError(
            f"no list {file}{near_name(file.name, near)}; name the lists "
            "ROOT/NAME_{train,val,test}.txt or give their file names"
        )
    lines = read_text_file(file, largest=LARGEST_LIST).rstrip().split("\n")
    rows = [line.rsplit(maxsplit=1) for line in lines]
    for number, row in enumerate(rows, 1):
        if len(row) != 2 or not row[1].isdecimal() or len(row[1]) > 9:
            raise ListError(
                f"{file}:{number}: {shortened(lines[number - 1])} is not a row "
                "'relative/path label' with a whole number from 0 as label; mend or "
                "remove it"
            )
    paths = [row[0] for row in rows]
    return Rows(file, paths, [int(row[1]) for row in rows], lambda i: f":{i + 1}")


def _read_json(root: Root, name: str) -> Rows:
    file = root / name
    if not os.path.lexists(file):
        raise ListError(
            f"no file {file}; unpack the annotations of iNaturalist 2018 there"
        )
    data = root.read(name, LARGEST_LIST)
    try:
        content = json_text.parse(data)
        category = {a["image_id"]: a["category_id"] for a in content["annotations"]}
        ids = [image["id"] for image in content["images"]]
        paths = [image["file_name"] for image in content["images"]]
        labels = [category.get(image_id, "none") for image_id in ids]
    except (ValueError, KeyError, TypeError) as error:
        raise ListError(
            f"{file} is not a list of iNaturalist 2018 (images with id and file_name, "
            f"annotations with image_id and category_id): {shortened(error)}; download "
            "it again"
        ) from None
    for image_id, path, label in zip(ids, paths, labels, strict=True):
        where = f"{file} image id {shortened(image_id)}"
        if not isinstance(path, str):
            raise ListError(f"{where}: the file_name {shortened(path)} is no path")
        if not is_category(label) or not may_lie_in(folder_of(path), label):
            raise ListError(
                f"{where}: {shortened(path)} has category {str(label)[:40]}, its "
                f"folder says {shortened(folder_of(path))}; use the annotations that "
                "belong to the images"
            )
    return Rows(file, paths, labels, lambda i: f" image id {ids[i]}")


def is_category(label: object) -> TypeGuard[int]:
    """Whether something in a JSON file may be a category's id."""
    return type(label) is int and abs(label) < 2**31


def folder_of(path: str) -> str:
    """The folder of an image, which iNaturalist 2018 calls as its category."""
    return posixpath.basename(posixpath.dirname(path))


def may_lie_in(folder: str, label: int) -> bool:
    """Whether a folder does not say another category; it pins the order of classes."""
    if not folder.isdecimal():
        return True
    return len(folder) <= 255 and int(folder) == label


def _split(
    rows: Rows, root: Root, class_names: Sequence[str], listings: Listings
) -> Split:
    """Checks rows against the classes and the files under root."""
    if not rows.paths:
        raise ListError(f"{rows.file} lists no image")
    labels = np.array(rows.labels, np.int64)
    if (bad := (labels < 0) | (labels >= len(class_names))).any():
        raise ListError(
            f"{_first(rows, bad)}: label {labels[bad.argmax()]} is outside 0 to "
            f"{len(class_names) - 1}; there are {len(class_names)} class names, and "
            "labels count from 0"
        )
    paths = relative(rows)
    if (bad := np.array([leaves(path) for path in paths])).any():
        raise ListError(
            f"{_first(rows, bad)}: {shortened(rows.paths[bad.argmax()])} leaves the "
            f"root {root}; list paths below it"
        )
    bad, outside = listings.missing_and_outside(paths)
    if bad.any():
        given, path = rows.paths[bad.argmax()], paths[bad.argmax()]
        hint = near_name(posixpath.basename(path), listings.beside(path))
        raise ListError(
            f"{_first(rows, bad)}: no image {shortened(given)} under {root}"
            f"{listings.fault(path) or hint}; paths are relative to the root, so set "
            "the root that they start from, or mend the rows"
        )
    if outside.any():
        path = paths[outside.argmax()]
        raise ListError(
            f"{_first(rows, outside)}: {shortened(path)} cannot be read: "
            f"{leads_out(root, listings.way_out(path))}"
        )
    if (bad := np.array([not is_utf8(path) for path in paths])).any():
        raise ListError(
            f"{_first(rows, bad)}: the name {shortened(paths[bad.argmax()])} is not "
            "UTF-8, and no report could hold it; rename the file or folder"
        )

    def describe(index: int) -> str:
        return f"{root / paths[index]} ({rows.where(index)})"

    return Split(
        labels=labels.astype(np.int32),
        fetch=lambda index: read_listed(root, paths[index], describe(index)),
        describe=describe,
        path=lambda index: root / paths[index],
    )


def relative(rows: Rows) -> list[str]:
    """The paths of rows in one form; those that leave the root begin with `..`."""
    return [posixpath.normpath(path.lstrip("/")) for path in rows.paths]


def _check_overlap(train: Rows, test: Rows) -> None:
    trained = {path: index for index, path in enumerate(relative(train))}
    tested = relative(test)
    if common := np.array([path in trained for path in tested]).nonzero()[0].tolist():
        path = tested[common[0]]
        raise SplitOverlapError(
            f"{len(common)} images are listed for training and for testing, the first "
            f"{shortened(path)} at {train.where(trained[path])} and "
            f"{test.where(common[0])}; remove them from one of the lists"
        )


def _first(rows: Rows, bad: Bool[np.ndarray, "N"]) -> str:
    others = int(bad.sum()) - 1
    return rows.where(int(bad.argmax())) + (f" and {others} more" if others else "")
