"""Prepared data sets of tensorflow-datasets, read at random without TensorFlow.

A prepared data set is a directory DATA_DIR/NAME[/CONFIG]/VERSION with ArrayRecord
files. `cifar100_lt` is `cifar100`, thinned while it is read, see `long_tail`. Not in
the paper.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32
from PIL import Image

from vl_ltr_jax.data.images.decode import unreadable
from vl_ltr_jax.data.root import RootLike
from vl_ltr_jax.data.sources import long_tail
from vl_ltr_jax.data.sources.dataset import (
    SPLITS,
    WIKI,
    LongTailedData,
    Split,
    Texts,
)
from vl_ltr_jax.data.sources.faults import ListError
from vl_ltr_jax.data.sources.tfds_directory import (
    find_prepared,
    open_builder,
    open_split,
)
from vl_ltr_jax.data.sources.tfds_labels import read_labels
from vl_ltr_jax.data.text.class_names import check_names, read_class_names, read_wnids
from vl_ltr_jax.logs.messages import nfc, shortened

IMBALANCES = ("100", "50", "10")  # of cifar100_lt
_CIFAR_SEED = 2019
_SPLIT_NAMES = {"train": ("train",), "val": ("val", "validation"), "test": ("test",)}
_MAX_NAME_CHARS = 255  # each part is a directory
_NAME = re.compile(r"(\w[\w.+-]*)(?:/(\w[\w.+-]*))?(?::(\d+\.\d+\.\d+))?")


@dataclasses.dataclass(frozen=True)
class Records:
    """The records of one split, which may travel to other processes.

    Attributes:
      where: name, version and split.
      source: from an index to the features of a record, see :func:`open_split`.
      labels: class of each record, from 0.
      file_names: of the images; empty if they are unknown.
    """

    where: str
    source: Any
    labels: Int32[np.ndarray, "N"]
    file_names: tuple[str, ...]

    def describe(self, index: int) -> str:
        """Returns the name of a record for messages."""
        name = f" ({self.file_names[index]})" if self.file_names else ""
        return f"{self.where} record {index}{name}"

    def fetch(self, index: int) -> bytes | Image.Image:
        """Returns the encoded image, or a picture if the data set stores pixels.

        Raises:
          ImageReadError: the record cannot be read.
          ListError: its label differs from the cached one.
        """
        try:
            record = self.source[index]
            image, label = record["image"], int(record["label"])
            if isinstance(image, np.ndarray):
                image = image[..., 0] if image.shape[-1] == 1 else image
                image = Image.fromarray(image).convert("RGB")
        except Exception as error:  # of array_record, protobuf and Pillow
            raise unreadable(self.describe(index), error) from None
        if label != self.labels[index]:
            raise ListError(
                f"{self.describe(index)} has label {label}, but its cached label is "
                f"{self.labels[index]}. Remove the file with labels."
            )
        return image


def read_prepared(
    data_dir: RootLike,
    name: str,
    layout: str = "plain",
    *,
    texts: Texts = WIKI,
) -> LongTailedData:
    """Reads a prepared data set.

    Splits are `train`, `val` (or `validation`) and `test`. Without a test with labels
    the validation images are the test, as with iNaturalist 2018. Without validation, as
    in CIFAR, the test images are the validation, and choose. Class names come from the
    label file under the texts' root, if it exists, or from the data set.

    Args:
      data_dir: directory of tensorflow-datasets.
      name: such as `places_lt`, `places_lt:1.0.0` or `name/config`, by default of the
        latest version. `cifar100_lt/100` (or 50, or 10) is `cifar100` with that
        imbalance; the default is 100.
      layout: of the label file, see `class_names.read_class_names`.
      texts: place of the texts; by default under `data_dir`.

    Raises:
      ListError: the data set is missing, incomplete or no ArrayRecord; an image lacks a
        label; or the label file has another order of classes.
      ValueError: the label file or a text cannot be read.
    """
    data_dir = Path(data_dir)
    if not (parts := _NAME.fullmatch(name)) or len(name) > _MAX_NAME_CHARS:
        raise ListError(
            f"data.name={shortened(name)} is not the name of a prepared data set. "
            "Write NAME, NAME/CONFIG or NAME/CONFIG:1.0.0."
        )
    dataset, config, version = parts.groups()
    imbalance = None
    if dataset == "cifar100_lt":
        imbalance, dataset, config = config or IMBALANCES[0], "cifar100", None
        if imbalance not in IMBALANCES:
            raise ListError(
                f"data.name={name!r}: the imbalance of cifar100_lt is unknown. "
                f"Choose from {', '.join(IMBALANCES)}."
            )
    dataset = f"{dataset}/{config}" if config else dataset
    builder = open_builder(find_prepared(data_dir, dataset, version))
    class_names = _class_names(builder, layout, Path(texts.root or data_dir))
    class_texts = texts.read(data_dir, len(class_names))
    splits = _splits(builder, len(class_names))
    if imbalance:
        train = splits["train"]
        indices = long_tail.thin(train.labels, int(imbalance), seed=_CIFAR_SEED)
        splits["train"] = train.select(indices)
    train, val, test = (splits[split] for split in SPLITS)
    return LongTailedData(name, class_names, class_texts, train, val, test)


def _splits(builder: Any, num_classes: int) -> dict[str, Split]:
    available = list(builder.info.splits)
    splits = {}
    for split, names in _SPLIT_NAMES.items():
        for name in names:
            if name not in available or split in splits:
                continue
            source = open_split(builder, name)
            labels, files = read_labels(builder, name, source)
            if split == "test" and (labels < 0).all():
                continue  # withheld, as in competitions
            records = Records(f"{builder.info.full_name} {name}", source, labels, files)
            if (bad := (labels < 0) | (labels >= num_classes)).any():
                first = int(bad.argmax())
                raise ListError(
                    f"{records.describe(first)} has label {labels[first]}, outside 0 "
                    f"to {num_classes - 1}. Every image needs a label."
                )
            splits[split] = Split(labels, records.fetch, records.describe)
    if "train" not in splits or len(splits) == 1:
        raise ListError(
            f"{builder.data_path} has the splits {', '.join(available)}. Training "
            "needs `train`, and `validation` or a `test` with labels."
        )
    splits.setdefault("val", splits.get("test", splits["train"]))
    splits.setdefault("test", splits["val"])
    return splits


def _class_names(builder: Any, layout: str, root: Path) -> tuple[str, ...]:
    stored = builder.info.features["label"].names
    are_wnids = all(re.fullmatch(r"n\d{8}", name) for name in stored)
    file = root / ("categories.json" if layout == "inat18" else "labels.txt")
    if not file.is_file():
        if are_wnids or all(name.isdecimal() for name in stored):
            raise ListError(
                f"{file} is missing, and {builder.data_path} calls its classes "
                f"{stored[0]} to {stored[-1]}. Put the data set's label file there, or "
                "set data.text_root to its directory."
            )
        plain = tuple(name.replace("_", " ") for name in stored)
        check_names([(str(builder.data_path), name) for name in plain])
        return plain
    names = read_class_names(root, layout)
    if len(names) != len(stored):
        raise ListError(
            f"{file} names {len(names)} classes, but {builder.data_path} has "
            f"{len(stored)}. Use the label file of that data set."
        )
    # Another order would give nearly every class the text of another.
    if are_wnids and layout == "imagenet_lt":
        listed: Sequence[str] = read_wnids(root)
        wrong = [label for label, wnid in enumerate(listed) if wnid != stored[label]]
    else:  # spelling may differ, but a known name has its place
        listed, places = names, _places(stored)
        wrong = [k for name, k in _places(names).items() if places.get(name, k) != k]
    if wrong:
        label = wrong[0]
        raise ListError(
            f"label {label} is {stored[label]!r} in {builder.data_path}, but "
            f"{listed[label]!r} in {file}. Use the label file of that data set."
        )
    return names


def _places(names: Sequence[str]) -> dict[str, int]:
    """Returns the label of each unique name, with normal spaces."""
    plain = [" ".join(re.sub("[_/]", " ", nfc(name)).lower().split()) for name in names]
    times = Counter(plain)
    return {name: label for label, name in enumerate(plain) if times[name] == 1}
