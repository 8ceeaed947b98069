"""Long-tailed data sets: images, their classes, and texts of the classes.

:class:`LongTailedData` is the one interface of all sources. `lists` reads list files,
as of ImageNet-LT and Places-LT. `inat18` reads the files of iNaturalist 2018,
`folders` directories of classes, `tfds_records` prepared records. Pictures of
`data.shapes` are drawn.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int, Int32, Int64
from PIL import Image

from vl_ltr_jax.data.images.decode import Picture, as_image, decode_image
from vl_ltr_jax.data.images.orientation import Orientation
from vl_ltr_jax.data.root import RootLike
from vl_ltr_jax.data.text.files import read_texts

SPLITS = ("train", "val", "test")
TEST_IS_VAL = (
    "no test images: the validation images are reported as test, as the paper does on "
    "iNaturalist 2018"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """The images of one split.

    Attributes:
      labels: class of each image, from 0.
      fetch: from an index to the encoded file, or to a picture made in memory; raises
        ImageReadError if storage fails.
      describe: from an index to a name of the image for messages.
      path: from an index to the image's file, if images are files.
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
        """Returns an image as RGB.

        Raises:
          ImageReadError: it is missing or damaged.
        """
        return as_image(self.decode(index, self.fetch(index)))

    def decode(self, index: int, fetched: bytes | Image.Image) -> Picture:
        """Returns the result of :attr:`fetch` as RGB.

        Raises:
          ImageReadError: it is not an image, see `decode.decode_image`.
        """
        if isinstance(fetched, Image.Image):
            return fetched
        return decode_image(fetched, self.describe(index), self.orientation)

    def select(self, indices: Int[np.ndarray, "K"]) -> "Split":
        """Returns the images at `indices`, in that order."""
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
      class_names: C names.
      class_texts: C texts.
      train: images to train on.
      val: images to choose by.
      test: images to report on.
      left_out: numbers of other files in its folders, by reason.
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
        train, val, test = (
            dataclasses.replace(split, orientation=orientation)
            for split in (self.train, self.val, self.test)
        )
        test = val if self.test_is_val else test
        return dataclasses.replace(self, train=train, val=val, test=test)

    @property
    def test_is_val(self) -> bool:
        """True if the validation images replace test images, which are absent."""
        return self.test is self.val

    @property
    def train_counts(self) -> Int64[np.ndarray, "C"]:
        """Training images per class."""
        return np.bincount(self.train.labels, minlength=len(self.class_names))


@dataclasses.dataclass(frozen=True)
class Texts:
    """The place of the texts of the classes.

    Attributes:
      root: directory that holds `wiki/`; None: that of the data set.
      encoding: see `files.read_text_file`.
      absent: True leaves prompts alone to each class.
    """

    root: RootLike | None = None
    encoding: str = "auto"
    absent: bool = False

    def read(self, data_root: RootLike, num_classes: int) -> tuple[str, ...]:
        """Returns the text of every class, in label order.

        Raises:
          TextError: a class has no text, or it cannot be decoded.
        """
        if self.absent:
            return ("",) * num_classes
        return read_texts(self.root or data_root, num_classes, self.encoding)


WIKI = Texts()
