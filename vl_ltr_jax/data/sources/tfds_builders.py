"""Preparation of data sets with tensorflow-datasets, for random access.

A data set is `places_lt` or `inaturalist2018_lt`, from the authors' files, or any of
the catalogue, such as `imagenet_lt` or `cifar100`. Its directory is complete or absent;
the source `tfds` reads it. Not in the paper.
"""

import abc
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int32

from vl_ltr_jax.data.sources import dataset, inat18
from vl_ltr_jax.data.sources.lists import read_image_list
from vl_ltr_jax.data.sources.tfds_directory import PREPARABLE, open_builder, open_split
from vl_ltr_jax.data.sources.tfds_labels import keep_labels, scan_labels
from vl_ltr_jax.logs import console
from vl_ltr_jax.logs.messages import near_name
from vl_ltr_jax.runtime.errors import UserError

IMAGES_PER_SHARD = 2000  # about 250 MB
Example = tuple[int, dict[str, Any]]
_NO_TEXTS = dataset.Texts(absent=True)
_NEEDS = {
    "imagenet_lt": " It needs the network, and ILSVRC2012_img_{train,val}.tar of "
    "image-net.org under --root.",
    "cifar100": " It needs the network, or a copy of a prepared cifar100/.",
}


class PrepareError(UserError):
    """A data set that cannot be prepared."""


class ListBuilder(tfds.core.ShardBasedBuilder):
    """A data set of image files, in the order of its lists.

    Images are stored byte for byte, without a check. The builder writes shard by shard:
    a `GeneratorBasedBuilder` would hold a whole split in memory to keep its order.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = "The root of the data set's files."
    # With a path, tensorflow-datasets would search for checksums of downloads, by a
    # package that it does not require (its issue 11212).
    code_path = None

    def __init__(self, *, num_shards: int | None = None, **options: Any) -> None:
        """Takes the options of `tfds.core.DatasetBuilder`.

        Args:
          num_shards: files of each split; None: one for `IMAGES_PER_SHARD` images.
          **options: of the base class.
        """
        self._num_shards = num_shards
        self._rows: dict[str, tuple[np.ndarray, list[str]]] = {}  # labels, files
        super().__init__(**options)

    @abc.abstractmethod
    def read(self, root: Path) -> dataset.LongTailedData:
        """Returns the data set's rows, checked against the files under `root`."""

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(),
                    "label": tfds.features.ClassLabel(),  # named once they are read
                    "file_name": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "label"),
            disable_shuffling=True,
        )

    def _shard_iterators_per_split(
        self, dl_manager: tfds.download.DownloadManager
    ) -> Mapping[str, Sequence[Callable[[], Iterator[Example]]]]:
        root = Path(dl_manager.manual_dir)
        data = self.read(root)
        # An underscore keeps the blank in front of names of Places.
        names = [name.replace(" ", "_") for name in data.class_names]
        self.info.features["label"].names = names
        splits = {"train": data.train, "val": data.val}
        if not data.test_is_val:
            splits["test"] = data.test
        self._rows = {
            name: (split.labels, _file_names(split, root))
            for name, split in splits.items()
        }
        return {
            name: _shards(name, labels, files, root, self._num_shards)
            for name, (labels, files) in self._rows.items()
        }

    def _download_and_prepare(
        self,
        dl_manager: tfds.download.DownloadManager,
        download_config: tfds.download.DownloadConfig | None = None,
    ) -> None:
        super()._download_and_prepare(dl_manager, download_config)
        for name, (labels, files) in self._rows.items():
            keep_labels(self, name, labels, files)


class PlacesLt(ListBuilder):
    """Places-LT (Liu et al., CVPR 2019), from Places_LT_{train,val,test}.txt."""

    def read(self, root: Path) -> dataset.LongTailedData:
        """Reads the lists and labels.txt."""
        return read_image_list(root, "Places_LT", "places_lt", texts=_NO_TEXTS)


class Inaturalist2018Lt(ListBuilder):
    """iNaturalist 2018, from its JSON files; a test split only with annotations."""

    def read(self, root: Path) -> dataset.LongTailedData:
        """Reads train2018.json, val2018.json, test2018.json and categories.json."""
        return inat18.read_inat18(root, texts=_NO_TEXTS)


def prepare(
    name: str,
    data_dir: Path,
    *,
    root: Path | None = None,
    num_shards: int | None = None,
) -> Path:
    """Prepares a data set as ArrayRecord with labels, and returns its directory.

    Args:
      name: one of `PREPARABLE`, or another of the catalogue.
      data_dir: directory of tensorflow-datasets.
      root: directory of the data set's files, if it is not downloaded.
      num_shards: files of each split; None fits their size.

    Raises:
      PrepareError: the data set exists or is unknown, or the catalogue's builder fails.
      ListError: the lists are at fault.
      OSError: a file cannot be read or written.
    """
    ours = {"places_lt": PlacesLt, "inaturalist2018_lt": Inaturalist2018Lt}
    if name in (*ours, "imagenet_lt") and not (root and root.is_dir()):
        raise PrepareError(
            f"--root={root or ''} is no directory. Name that of the files of {name}."
        )
    config = tfds.download.DownloadConfig(
        manual_dir=root, num_shards=num_shards, try_download_gcs=False
    )
    if name in ours:
        builder = ours[name](
            data_dir=data_dir, file_format="array_record", num_shards=num_shards
        )
    else:
        builder = _of_the_catalogue(name, data_dir)
    directory = Path(builder.data_path)
    if directory.exists():
        raise PrepareError(
            f"{directory} exists, and nothing is overwritten. Name another --data_dir."
        )
    if name in ours:
        builder.download_and_prepare(download_config=config)
        return directory
    try:
        builder.download_and_prepare(download_config=config)
    except Exception as error:  # of the network, of archives, of tensorflow-datasets
        needs = _NEEDS.get(name, "")
        if isinstance(error, ModuleNotFoundError):
            needs = f" Install it: pip install {error.name}."
        reason = " ".join(str(error).split())
        raise PrepareError(
            f"{name} was not prepared ({type(error).__name__}: {reason}).{needs}"
        ) from error
    prepared = open_builder(directory)
    for split in prepared.info.splits:
        where = f"{prepared.info.full_name} {split}"
        labels, files = scan_labels(open_split(prepared, split), where)
        keep_labels(prepared, split, labels, files)
    return directory


def _of_the_catalogue(name: str, data_dir: Path) -> tfds.core.DatasetBuilder:
    try:
        return tfds.builder(name, data_dir=data_dir, file_format="array_record")
    except Exception as error:  # its message has thousands of characters
        raise PrepareError(
            f"{name!r} is no data set of tensorflow-datasets ({type(error).__name__})"
            f"{near_name(name, PREPARABLE)}. Its catalogue: "
            "https://www.tensorflow.org/datasets/catalog"
        ) from error


def _file_names(split: dataset.Split, root: Path) -> list[str]:
    paths = map(split.path, range(len(split))) if split.path else ()
    return [path.relative_to(root).as_posix() for path in paths]


def _shards(
    name: str,
    labels: Int32[np.ndarray, "N"],
    files: Sequence[str],
    root: Path,
    num_shards: int | None,
) -> list[Callable[[], Iterator[Example]]]:
    """Returns a function for each file of a split, which yields its images in order."""

    def shard(number: int, indices: range) -> Iterator[Example]:
        what = f"{name} {number} of {count}"
        for index in console.progress(indices, what, len(indices), "images"):
            file, label = files[index], int(labels[index])
            yield index, dict(image=str(root / file), label=label, file_name=file)

    count = min(num_shards or -(-len(files) // IMAGES_PER_SHARD), len(files))
    bounds = [len(files) * number // count for number in range(count + 1)]
    return [
        functools.partial(shard, number + 1, range(*bounds[number : number + 2]))
        for number in range(count)
    ]
