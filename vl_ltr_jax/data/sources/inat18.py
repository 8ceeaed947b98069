"""iNaturalist 2018: images and categories from its JSON files."""

import os
import posixpath
from pathlib import Path
from typing import TypeGuard

from vl_ltr_jax.data.root import RootLike, read_file
from vl_ltr_jax.data.sources.dataset import (
    SPLITS,
    WIKI,
    ListError,
    LongTailedData,
    Rows,
    Texts,
    from_rows,
)
from vl_ltr_jax.data.text.class_names import read_class_names
from vl_ltr_jax.logs.messages import shortened
from vl_ltr_jax.storage import strict_json


def read_inat18(root: RootLike, *, texts: Texts = WIKI) -> LongTailedData:
    """Reads iNaturalist 2018 from `train2018.json` and `val2018.json`.

    Labels are category ids. The test split is that of `test2018.json` where the file
    has annotations, and the validation split otherwise, as in the paper.

    Raises:
      ListError: names the file, the image, and what to change.
      SplitOverlapError: if an image is listed for training and for testing.
    """
    root = Path(root)
    class_names = read_class_names(root, "inat18")
    rows = {split: _read_json(root, f"{split}2018.json") for split in SPLITS[:2]}
    test = "test2018.json"
    rows["test"] = _read_json(root, test) if has_labels(root, test) else rows["val"]
    return from_rows("inat18", root, class_names, rows, texts)


def has_labels(root: Path, name: str) -> bool:
    """Whether a JSON file of iNaturalist is there, and not one of withheld labels.

    Raises:
      FileError: if it cannot be read.
    """
    there = os.path.exists(root / name)
    return there and b'"annotations"' in read_file(root / name)


def _read_json(root: Path, name: str) -> Rows:
    file = root / name
    if not os.path.lexists(file):
        raise ListError(
            f"no file {file}; unpack the annotations of iNaturalist 2018 there"
        )
    data = read_file(root / name)
    try:
        content = strict_json.parse(data)
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
