"""Image folders: ROOT/SPLIT/CLASS/picture, as torchvision's ImageFolder has them.

Not in the paper. `labels.txt` (or `categories.json`) gives the class of a folder, by
name, wnid (layout `imagenet_lt`) or label. Without that file the classes are the
folders in alphabetical order. Folders that are numbers need the file: alphabetical
order puts 10 before 2, and would exchange nearly all texts.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from vl_ltr_jax.data.images.picture_folders import (
    HIDDEN,
    NO_FILE,
    SYSTEM,
    reason_for_name,
    reason_to_leave_out,
    walk,
)
from vl_ltr_jax.data.root import RootLike, is_folder
from vl_ltr_jax.data.sources.dataset import WIKI, LongTailedData, Texts
from vl_ltr_jax.data.sources.faults import Faults, Kind, ListError, Offender
from vl_ltr_jax.data.sources.rows import Rows, from_rows, read_names
from vl_ltr_jax.data.text.class_names import check_names, read_wnids
from vl_ltr_jax.logs.messages import near_name, nfc

_FOLDERS = {"train": ("train",), "val": ("val", "validation"), "test": ("test",)}


def read_image_folder(
    root: RootLike,
    name: str,
    layout: str = "plain",
    *,
    texts: Texts = WIKI,
    faults: Faults | None = None,
) -> LongTailedData:
    """Reads a data set from folders.

    Args:
      root: directory with `train`, `val` (or `validation`) and `test`; without `test`
        the validation images are the test, as with iNaturalist 2018.
      name: of the data set.
      layout: see `class_names.read_class_names`.
      texts: place of the texts.
      faults: None raises the first fault.

    Raises:
      ListError: names the folder and the remedy.
    """
    root, faults = Path(root), faults or Faults()
    file = root / ("categories.json" if layout == "inat18" else "labels.txt")
    names: tuple[str, ...] = ()
    labels: dict[str, int] = {}
    if file.is_file():
        names = read_names(root, layout, faults)
        wnids = read_wnids(root) if names and layout == "imagenet_lt" else ()
        labels = _label_by_folder(names, wnids)
    elif train := _split_folder(root, "train"):
        with faults.part("class-names", "class names that cannot be read"):
            names, labels = _alphabetical(file, _class_folders(train, Counter()))

    def read(split: str) -> Rows | None:
        if folder := _split_folder(root, split):
            return _read_rows(root, folder, labels, file.name, faults)
        if split == "test":
            return None
        raise ListError(
            f"no directory {root / split}. Image folders are ROOT/SPLIT/CLASS with the "
            "splits train, val and test."
        )

    return from_rows(name, root, names, read, texts, faults)


def _split_folder(root: Path, split: str) -> Path | None:
    paths = (root / name for name in _FOLDERS[split])
    return next((path for path in paths if path.is_dir()), None)


def _class_folders(folder: Path, left_out: Counter[str]) -> list[str]:
    """Returns the class folders of a split in alphabetical order.

    Args:
      folder: of the split.
      left_out: counts other entries by reason.

    Raises:
      ListError: no class folder is present, two have one name, or the directory cannot
        be read.
    """
    names: dict[str, str] = {}
    try:
        with os.scandir(folder) as scanned:
            entries = sorted(scanned, key=lambda entry: entry.name)
    except OSError as error:
        raise ListError(f"{folder} cannot be read: {error.strerror}.") from None
    for entry in entries:
        if reason := reason_for_name(entry.name):
            left_out[reason] += 1
        elif not is_folder(entry):
            left_out[reason_to_leave_out(entry.name) or "in no class's folder"] += 1
        elif (form := nfc(entry.name)) in names:
            raise ListError(
                f"{folder}: two folders are called {entry.name!r}, in two of Unicode's "
                "normal forms. Move the pictures of one into the other."
            )
        else:
            names[form] = entry.name
    if not names:
        raise ListError(
            f"{folder} has no folder. Image folders are ROOT/SPLIT/CLASS/picture."
        )
    return [names[form] for form in sorted(names)]


def _alphabetical(
    file: Path, folders: Sequence[str]
) -> tuple[tuple[str, ...], dict[str, int]]:
    if numbers := [folder for folder in folders if folder.isdecimal()]:
        raise ListError(
            f"{file} is missing, and folders such as {numbers[0]!r} do not name a "
            "class. Write the file with a row `name label` for each class."
        )
    names = tuple(nfc(folder).replace("_", " ") for folder in folders)
    check_names([(f"{file.parent}: a folder", name) for name in names])
    return names, {nfc(folder): label for label, folder in enumerate(folders)}


def _label_by_folder(names: Sequence[str], wnids: Sequence[str]) -> dict[str, int]:
    """Returns labels by every possible name of a folder; class names go first."""
    labels = {str(label): label for label in range(len(names))}
    if wnids:  # names of ImageNet repeat
        return labels | {wnid: label for label, wnid in enumerate(wnids)}
    for label, name in enumerate(names):
        labels |= {name: label, name.replace(" ", "_"): label}
    return labels


def _read_rows(
    root: Path, folder: Path, labels: Mapping[str, int], file: str, faults: Faults
) -> Rows:
    """Returns the pictures of a split.

    Args:
      root: of the data set.
      folder: of the split.
      labels: by name of a folder; empty if class names are at fault.
      file: with the class names.
      faults: receives folders without class or pictures.
    """
    left_out: Counter[str] = Counter()
    names = _class_folders(folder, left_out)
    labels = labels or {nfc(name): label for label, name in enumerate(names)}
    paths: list[str] = []
    classes: list[int] = []
    unknown: list[str] = []
    unread: list[tuple[str, str]] = []
    unreadable: list[tuple[str, str]] = []
    for name in names:
        if (label := _label_of(name, labels)) is None:
            unknown.append(name)
            continue
        ignored: Counter[str] = Counter()
        listed, errors = pictures(folder / name, ignored)
        left_out.update(ignored)
        unreadable += errors
        if not listed and not errors and (reason := _only_unread(ignored)):
            unread.append((name, reason))
        paths += [os.path.relpath(path, root) for path in listed]
        classes += [label] * len(listed)
    faults.add(
        Kind(
            "folder-unknown",
            "error",
            f"folders without a class of that name or label in {file}",
            "rename the folder, or add the class",
        ),
        unknown,
        lambda name: Offender(
            str(folder / name), note=near_name(name, labels).removeprefix("; ")
        ),
    )
    faults.add(
        Kind("folder-unreadable", "error", "folders that cannot be read", "mend them"),
        unreadable,
        lambda row: Offender(row[0], note=row[1]),
    )
    faults.add(
        Kind(
            "folder-unread",
            "error",
            "folders of classes without a picture of a known format",
            "save their pictures as JPEG or PNG",
        ),
        unread,
        lambda row: Offender(str(folder / row[0]), note=row[1]),
    )
    return Rows(folder, paths, classes, lambda i: f" picture {paths[i]}", left_out)


def _only_unread(left_out: Mapping[str, int]) -> str:
    """Returns the content of a folder without pictures; '' if it is empty."""
    kinds = [
        f"{number:,} {reason}"
        for reason, number in left_out.items()
        if reason not in (HIDDEN, SYSTEM)
    ]
    return f"no picture but {', '.join(kinds)}" if kinds else ""


def _label_of(name: str, labels: Mapping[str, int]) -> int | None:
    """Returns the label of a folder, whose number may be padded with zeros."""
    name = nfc(name)
    if name.isdecimal() and name not in labels:
        name = str(int(name))  # which has at most 255 digits
    return labels.get(name)


def pictures(
    folder: Path, left_out: Counter[str]
) -> tuple[list[str], list[tuple[str, str]]]:
    """Returns pictures at any depth, and unreadable folders with the reason.

    Args:
      folder: of a class.
      left_out: counts other files by reason.
    """
    paths: list[str] = []
    errors: list[tuple[str, str]] = []
    for path, error in walk(os.fspath(folder), left_out):
        if error and error != NO_FILE:  # broken links are reported with their rows
            errors.append((path, error))
        else:
            paths.append(path)
    return sorted(paths), errors
