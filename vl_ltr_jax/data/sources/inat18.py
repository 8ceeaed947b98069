"""iNaturalist 2018: images and categories from its JSON files."""

import posixpath
from pathlib import Path
from typing import Any

from vl_ltr_jax.data.root import RootLike, read_file
from vl_ltr_jax.data.sources.dataset import WIKI, LongTailedData, Texts
from vl_ltr_jax.data.sources.faults import Classes, Faults, Kind, ListError, Offender
from vl_ltr_jax.data.sources.rows import Rows, from_rows, read_names
from vl_ltr_jax.logs.messages import shortened
from vl_ltr_jax.storage import strict_json


def read_inat18(
    root: RootLike, *, texts: Texts = WIKI, faults: Faults | None = None
) -> LongTailedData:
    """Reads iNaturalist 2018 from `train2018.json` and `val2018.json`.

    Labels are category ids. `test2018.json` gives the test split if it has annotations.
    Otherwise the validation split is the test, as in the paper.

    Args:
      root: directory of the files and images.
      texts: place of the texts.
      faults: None raises the first fault.

    Raises:
      ListError: names the file, the image and the remedy.
      SplitOverlapError: an image is listed for training and for testing.
    """
    root, faults = Path(root), faults or Faults()
    names = read_names(root, "inat18", faults)

    def read(split: str) -> Rows | None:
        file = root / f"{split}2018.json"
        if split == "test" and not _has_labels(file):
            return None
        return _read_json(file, Classes(names), faults)

    return from_rows("inat18", root, names, read, texts, faults)


def _has_labels(file: Path) -> bool:
    return file.exists() and b'"annotations"' in read_file(file)


def _read_json(file: Path, classes: Classes, faults: Faults) -> Rows:
    if not file.is_file():
        raise ListError(
            f"no file {file}. Unpack the annotations of iNaturalist 2018 there."
        )
    data = read_file(file)
    categories: dict[Any, Any] = {}
    repeated: list[tuple[Any, Any, Any]] = []
    try:
        content = strict_json.parse(data)
        for annotation in content["annotations"]:
            image_id, label = annotation["image_id"], annotation["category_id"]
            if (first := categories.get(image_id, label)) != label:
                repeated.append((image_id, first, label))
            categories[image_id] = label
        images = [
            (image["id"], str(image["file_name"]), categories.get(image["id"]))
            for image in content["images"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ListError(
            f"{file} is not a list of iNaturalist 2018 (images with id and file_name, "
            f"annotations with image_id and category_id): {shortened(error)}; download "
            "it again"
        ) from None
    ids, paths, labels = [], [], []
    unlabelled: list[tuple[Any, str]] = []
    moved: list[tuple[Any, str]] = []
    for image_id, path, label in images:
        folder = posixpath.basename(posixpath.dirname(path))
        if type(label) is not int or abs(label) >= 2**31:
            unlabelled.append((image_id, path))
        elif folder.isdecimal() and folder.lstrip("0") != str(label).lstrip("0"):
            moved.append((image_id, path))
        else:
            ids.append(image_id)
            paths.append(path)
            labels.append(label)

    def where(image_id: Any) -> str:
        return f"{file} image id {shortened(image_id)}"

    mend = "use the annotations that belong to the images"
    faults.add(
        Kind("two-labels", "error", "images with two labels", "remove the wrong one"),
        repeated,
        lambda row: Offender(where(row[0]), note=f"categories {row[1]} and {row[2]}"),
    )
    faults.add(
        Kind("list-row", "error", "images without a category", mend),
        unlabelled,
        lambda row: Offender(
            where(row[0]),
            note=f"{shortened(row[1])} has category {str(categories.get(row[0]))[:40]}",
        ),
    )
    faults.add(
        Kind(
            "category-folder",
            "error",
            "images in the folder of another category",
            f"{mend}; folders and category ids of iNaturalist 2018 both count from 0",
        ),
        moved,
        lambda row: classes.offender(
            where(row[0]), categories[row[0]], f"lies at {shortened(row[1])}"
        ),
    )
    return Rows(file, paths, labels, lambda i: f" image id {ids[i]}")
