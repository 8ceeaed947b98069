"""Long-tailed data sets: which image is of which class, and what its texts say.

:class:`LongTailedData` is the one interface of all sources. Here, list files with a row
`relative/path label` per image (ImageNet-LT, Places-LT and one's own data); `inat18`
has the JSON files of iNaturalist 2018, `folders` directories of classes, `prepared`
what tensorflow-datasets has prepared, `shapes` the embedded world. Everything that can
be wrong with rows is found before the first image is decoded, with one directory
listing per directory.
"""

import dataclasses
import posixpath
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, Int32, Int64
from PIL import Image

from vl_ltr_jax.data.images.decode import Picture, as_image, decode_image, read_content
from vl_ltr_jax.data.images.orientation import Orientation
from vl_ltr_jax.data.root import Listings, RootLike, is_utf8, leaves
from vl_ltr_jax.data.text.files import read_texts
from vl_ltr_jax.logs.messages import near_name, nfc, shortened
from vl_ltr_jax.runtime.errors import UserError

SPLITS = ("train", "val", "test")
TEST_IS_VAL = (
    "no test images: the validation images, which also choose, are reported as test, "
    "as the paper does on iNaturalist 2018"
)


class ListError(UserError):
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
      orientation: see `decode.decode_image`.
    """

    labels: Int32[np.ndarray, "N"]
    fetch: Callable[[int], bytes | Image.Image]
    describe: Callable[[int], str]
    path: Callable[[int], Path] | None = None
    orientation: Orientation = "exif"

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
          ImageReadError: if it is not an image, see `decode.decode_image`.
        """
        if isinstance(fetched, Image.Image):
            return fetched
        return decode_image(fetched, self.describe(index), self.orientation)

    def select(self, indices: Int[np.ndarray, "K"]) -> "Split":
        """The images at `indices`, in that order."""
        path = self.path
        return dataclasses.replace(
            self,
            labels=self.labels[indices],
            fetch=lambda index: self.fetch(int(indices[index])),
            describe=lambda index: self.describe(int(indices[index])),
            path=path and (lambda index: path(int(indices[index]))),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class LongTailedData:
    """A data set: names and texts of C classes, and three splits.

    Attributes:
      name: of the data set.
      class_names: C names.
      class_texts: C texts.
      train: images to train on.
      val: images to choose by.
      test: images to report on.
      left_out: number of files in its folders that are no images, by reason.
    """

    name: str
    class_names: tuple[str, ...]
    class_texts: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def oriented(self, orientation: Orientation) -> "LongTailedData":
        """Returns the data set with another orientation of its pictures."""
        val = dataclasses.replace(self.val, orientation=orientation)
        test = dataclasses.replace(self.test, orientation=orientation)
        return dataclasses.replace(
            self,
            train=dataclasses.replace(self.train, orientation=orientation),
            val=val,
            test=val if self.test_is_val else test,
        )

    @property
    def test_is_val(self) -> bool:
        """True if the validation images stand in for test images, which are absent."""
        return self.test is self.val

    @property
    def train_counts(self) -> Int64[np.ndarray, "C"]:
        """Training images per class."""
        return np.bincount(self.train.labels, minlength=len(self.class_names))


@dataclasses.dataclass(frozen=True)
class Texts:
    """Where the texts of the classes are.

    Attributes:
      root: directory that holds `wiki/`; None: the data set's own.
      encoding: see `files.read_text_file`.
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
        return read_texts(self.root or data_root, num_classes, self.encoding)


WIKI = Texts()


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of one list, as read.

    Attributes:
      file: the list, or a folder of classes.
      paths: of the images.
      labels: of the images.
      row_name: index to what a row is called after the file's name.
      left_out: number of files in folders that are no images, by reason.
    """

    file: Path
    paths: list[str]
    labels: list[int]
    row_name: Callable[[int], str]
    left_out: Counter[str] = dataclasses.field(default_factory=Counter)

    def where(self, index: int) -> str:
        """A row, for messages."""
        return f"{self.file}{self.row_name(index)}"


def from_rows(
    name: str,
    root: Path,
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
    if rows["test"] is rows["val"]:
        splits["test"] = splits["val"]
    _check_overlap(rows["train"], rows["test"])
    return LongTailedData(
        name=name,
        class_names=tuple(class_names),
        class_texts=texts.read(root, len(class_names)),
        left_out=sum_left_out(rows.values()),
        **splits,
    )


def sum_left_out(rows: Iterable[Rows]) -> Counter[str]:
    """Returns what was left out of all folders; rows of two splits count once."""
    different = {id(of_split): of_split.left_out for of_split in rows}
    return sum(different.values(), Counter())


def _split(
    rows: Rows, root: Path, class_names: Sequence[str], listings: Listings
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
            f"{_first(rows, bad)}: {shortened(rows.paths[bad.argmax()])} leaves "
            f"data.root={str(root)!r}. List paths below it."
        )
    paths = listings.spelled(paths)
    if (bad := listings.missing(paths)).any():
        given, path = rows.paths[bad.argmax()], paths[bad.argmax()]
        hint = near_file(path, listings, paths)
        raise ListError(
            f"{_first(rows, bad)}: no image {shortened(given)} under {root}"
            f"{hint}; paths are relative to the root, so set "
            "the root that they start from, or mend the rows"
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
        fetch=lambda index: read_content(root / paths[index], describe(index)),
        describe=describe,
        path=lambda index: root / paths[index],
    )


def near_file(path: str, listings: Listings, listed: Collection[str]) -> str:
    """Returns the part of a message that names a file like one that is missing.

    Args:
      path: what is missing.
      listings: of the root.
      listed: paths that have a row of their own, and are not meant.
    """
    for other in listings.differing_by_case(path):
        together = posixpath.dirname(other) == posixpath.dirname(path)
        name = posixpath.basename(other) if together else other
        return f"; did you mean {name!r}?"
    folder = posixpath.dirname(path)
    taken = {posixpath.basename(o) for o in listed if posixpath.dirname(o) == folder}
    return near_name(posixpath.basename(path), listings.beside(path) - taken)


def relative(rows: Rows) -> list[str]:
    """The paths of rows in one form; those that leave the root begin with `..`."""
    return [posixpath.normpath(path.lstrip("/")) for path in rows.paths]


def _check_overlap(train: Rows, test: Rows) -> None:
    trained = {nfc(path): index for index, path in enumerate(relative(train))}
    tested = list(map(nfc, relative(test)))
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
