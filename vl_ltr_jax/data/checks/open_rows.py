"""Rows of lists, JSON files and folders; unsound ones are told of, and left out."""

import dataclasses
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vl_ltr_jax.data.checks.findings import Classes, Finding, Kind, Offender, gather
from vl_ltr_jax.data.images.orientation import Orientation
from vl_ltr_jax.data.root import read_file
from vl_ltr_jax.data.sources import dataset, folders, inat18
from vl_ltr_jax.data.sources.dataset import SPLITS, Rows
from vl_ltr_jax.data.text.class_names import read_wnids
from vl_ltr_jax.data.text.files import read_text_file
from vl_ltr_jax.logs.messages import near_name, nfc, shortened
from vl_ltr_jax.storage import strict_json


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a data set of files lies.

    Attributes:
      source: 'image_list', 'inat18' or 'image_folder'; of others nothing is salvaged.
      root: its directory.
      layout: see `class_names.read_class_names`.
      lists: file name of each split's list under root.
      orientation: of its pictures, see `decode.decode_image`.
    """

    source: str
    root: Path
    layout: str
    lists: Mapping[str, str]
    orientation: Orientation = "exif"


def read(
    place: Place, split: str, names: Sequence[str]
) -> tuple[Rows, list[Finding]] | None:
    """Reads the rows of a split that can be read.

    Args:
      place: where the data set is.
      split: 'train', 'val' or 'test'.
      names: C class names; none where they are not known.

    Returns:
      The rows, and findings of others; None for a test split that is the validation
      split.

    Raises:
      ValueError: if there is no such list, or nothing of it can be read.
    """
    if place.source == "image_list":
        return _list(place.root / place.lists[split])
    if place.source == "inat18":
        name = f"{split}2018.json"
        if split == "test" and not inat18.has_labels(place.root, name):
            return None
        return _json(place.root, name, Classes(names))
    return _folders(place, split, names)


def _list(file: Path) -> tuple[Rows, list[Finding]]:
    if not file.is_file():
        near = [path.name for path in file.parent.glob("*.txt") if path.is_file()]
        raise dataset.ListError(
            f"no list {file}{near_name(file.name, near)}; name the lists "
            "ROOT/NAME_{train,val,test}.txt or give their file names"
        )
    bad: list[tuple[int, str]] = []
    numbers: list[int] = []
    paths: list[str] = []
    labels: list[int] = []
    for number, line in enumerate(read_text_file(file).rstrip().split("\n"), 1):
        match line.rsplit(maxsplit=1):
            case [path, label] if _is_number(label):
                numbers.append(number)
                paths.append(path)
                labels.append(int(label))
            case _:
                bad.append((number, line))
    found = gather(
        Kind(
            "list-row",
            "error",
            "rows of lists that are not 'relative/path label'",
            "write a path, a blank and the label as a whole number, or remove the row",
        ),
        bad,
        lambda row: Offender(f"{file}:{row[0]}", note=repr(row[1][:200])),
    )
    return Rows(file, paths, labels, lambda i: f":{numbers[i]}"), found


def _is_number(label: str) -> bool:
    digits = label.removeprefix("-")
    return digits.isdecimal() and len(digits) <= 9


def _json(root: Path, name: str, classes: Classes) -> tuple[Rows, list[Finding]]:
    file = root / name
    if not os.path.lexists(file):
        raise dataset.ListError(
            f"no file {file}; unpack the annotations of iNaturalist 2018 there"
        )
    data = read_file(file)
    try:
        content = strict_json.parse(data)
        category = {a["image_id"]: a["category_id"] for a in content["annotations"]}
        images = [(image["id"], str(image["file_name"])) for image in content["images"]]
        labelled = [(*image, category.get(image[0])) for image in images]
    except (ValueError, KeyError, TypeError) as error:
        raise dataset.ListError(
            f"{file} is not a list of iNaturalist 2018: {shortened(error)}; download "
            "it again"
        ) from None
    kept: list[tuple[Any, str]] = []
    labels: list[int] = []
    bad: list[tuple[Any, str]] = []
    moved: list[tuple[Any, str]] = []
    for image_id, path, label in labelled:
        if not inat18.is_category(label):
            bad.append((image_id, path))
        elif not inat18.may_lie_in(inat18.folder_of(path), label):
            moved.append((image_id, path))
        else:
            kept.append((image_id, path))
            labels.append(label)
    found = gather(
        Kind(
            "list-row",
            "error",
            "images without a category",
            "use the annotations that belong to the images",
        ),
        bad,
        lambda row: Offender(f"{file} image id {row[0]}", note=row[1]),
    )
    found += gather(
        Kind(
            "category-folder",
            "error",
            "images whose category is not the one that their folder tells",
            "use the annotations that belong to the images; folders and category ids "
            "of iNaturalist 2018 both count from 0",
        ),
        moved,
        lambda row: classes.offender(
            f"{file} image id {row[0]}", category[row[0]], f"lies at {row[1]}"
        ),
    )
    paths = [path for _, path in kept]
    return Rows(file, paths, labels, lambda i: f" image id {kept[i][0]}"), found


def _folders(
    place: Place, split: str, names: Sequence[str]
) -> tuple[Rows, list[Finding]] | None:
    there = folders.split_folder(place.root, split)
    if there is None:
        if split == "test":
            return None
        raise dataset.ListError(
            f"no directory {place.root / split}; image folders are ROOT/SPLIT/CLASS "
            "with the splits train, val and test"
        )
    left_out: Counter[str] = Counter()
    given = folders.class_folders(there, left_out)
    wnids = read_wnids(place.root) if names and place.layout == "imagenet_lt" else ()
    known = folders.label_by_folder(names, wnids)
    if not names:  # their order tells nothing of classes, and pictures can be read
        known = {nfc(name): label for label, name in enumerate(given)}
    paths: list[str] = []
    labels: list[int] = []
    strange: list[str] = []
    unread: list[tuple[str, str]] = []
    for name in given:
        if (label := folders.label_of(name, known)) is None:
            strange.append(name)
            continue
        others: Counter[str] = Counter()
        listed = folders.pictures(there / name, others)
        left_out.update(others)
        if not listed and (reason := folders.only_unread(others)):
            unread.append((name, reason))
        paths += [os.path.relpath(path, place.root) for path in listed]
        labels += [label] * len(listed)
    found = gather(
        Kind(
            "folder-unknown",
            "error",
            "folders that no class is called by",
            "rename the folder, or add the class to the label file",
        ),
        strange,
        lambda name: Offender(
            str(there / name), note=near_name(name, known).removeprefix("; ")
        ),
    )
    found += gather(
        Kind(
            "folder-unread",
            "error",
            "folders of classes without a picture of a format that is read",
            "save their pictures as JPEG or PNG",
        ),
        unread,
        lambda row: Offender(str(there / row[0]), note=row[1]),
    )
    return Rows(there, paths, labels, lambda i: f" picture {paths[i]}", left_out), found


def repeated_annotations(place: Place) -> list[Finding]:
    """Finds images of iNaturalist with two categories, of which a run takes the last.

    Args:
      place: where the data set is; of other sources nothing is found.
    """
    twice: list[tuple[Path, Any, int, int]] = []
    for split in SPLITS if place.source == "inat18" else ():
        file = place.root / f"{split}2018.json"
        category: dict[Any, int] = {}
        try:
            data = read_file(file)
            annotations = strict_json.parse(data)["annotations"]
            for annotation in annotations:
                image_id, label = annotation["image_id"], annotation["category_id"]
                if (first := category.setdefault(image_id, label)) != label:
                    twice.append((file, image_id, first, label))
        except (ValueError, KeyError, TypeError):
            continue  # told of where the list is opened
    return gather(
        Kind(
            "two-labels",
            "error",
            "images with two labels",
            "keep the annotation that is right",
        ),
        twice,
        lambda row: Offender(
            f"{row[0]} image id {row[1]}", note=f"categories {row[2]} and {row[3]}"
        ),
    )
