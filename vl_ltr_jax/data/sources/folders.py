"""Image folders: ROOT/SPLIT/CLASS/picture, as torchvision's ImageFolder has them.

Not in the paper. Which class a folder is, `labels.txt` says (or `categories.json`); a
folder may carry the class's name, its wnid (layout `imagenet_lt`) or its label. Without
that file the classes are the folders' names in alphabetical order, unless these are
numbers: alphabetical order puts 10 before 2, which would give nearly every class the
text of another.
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
from vl_ltr_jax.data.sources.dataset import (
    WIKI,
    ListError,
    LongTailedData,
    Rows,
    Texts,
    from_rows,
)
from vl_ltr_jax.data.text.class_names import check_names, read_class_names, read_wnids
from vl_ltr_jax.logs.messages import near_name, nfc

_FOLDERS = {"train": ("train",), "val": ("val", "validation"), "test": ("test",)}


def read_image_folder(
    root: RootLike,
    name: str,
    layout: str = "plain",
    *,
    texts: Texts = WIKI,
) -> LongTailedData:
    """Reads a data set given by folders.

    Args:
      root: directory with `train`, `val` (or `validation`) and `test`; where `test` is
        absent the validation images are the test, as with iNaturalist 2018.
      name: of the data set.
      layout: of the file with class names, see `class_names.read_class_names`.
      texts: where the texts are.

    Raises:
      ListError: names the folder and what to change.
    """
    root = Path(root)
    folders = {split: split_folder(root, split) for split in _FOLDERS}
    for split in ("train", "val"):
        if folders[split] is None:
            raise ListError(
                f"no directory {root / split}; image folders are ROOT/SPLIT/CLASS with "
                "the splits train, val and test"
            )
    left_out: dict[str, Counter[str]] = {split: Counter() for split in folders}
    found = {
        split: class_folders(path, left_out[split])
        for split, path in folders.items()
        if path
    }
    names_file = "categories.json" if layout == "inat18" else "labels.txt"
    if (root / names_file).is_file():
        class_names = read_class_names(root, layout)
        wnids = read_wnids(root) if layout == "imagenet_lt" else ()
        labels = label_by_folder(class_names, wnids)
    else:
        class_names, labels = _alphabetical(root / names_file, found["train"])
    rows = {
        split: _rows(root, path, found[split], labels, names_file, left_out[split])
        for split, path in folders.items()
        if path
    }
    rows.setdefault("test", rows["val"])
    return from_rows(name, root, class_names, rows, texts)


def split_folder(root: Path, split: str) -> Path | None:
    """The directory of 'train', 'val' or 'test', if there is one."""
    paths = (root / name for name in _FOLDERS[split])
    return next((path for path in paths if path.is_dir()), None)


def class_folders(folder: Path, left_out: Counter[str]) -> list[str]:
    """Returns the names of the directories in that of a split, in alphabetical order.

    Args:
      folder: of the split.
      left_out: counts everything else in it, by reason.

    Raises:
      ListError: if there is none, two have one name, or the directory cannot be read.
    """
    names: dict[str, str] = {}
    for entry in _entries(folder):
        if reason := reason_for_name(entry.name):
            left_out[reason] += 1
        elif not is_folder(entry):
            left_out[reason_to_leave_out(entry.name) or "in no class's folder"] += 1
        elif (form := nfc(entry.name)) in names:
            raise ListError(
                f"{folder}: two folders are called {entry.name!r}, in two of Unicode's "
                "normal forms; move the pictures of one into the other"
            )
        else:
            names[form] = entry.name
    if not names:
        raise ListError(
            f"{folder} has no folder; image folders are ROOT/SPLIT/CLASS/picture"
        )
    return [names[form] for form in sorted(names)]


def _alphabetical(
    names_file: Path, folders: Sequence[str]
) -> tuple[tuple[str, ...], dict[str, int]]:
    if any(folder.isdecimal() for folder in folders):
        raise ListError(
            f"no file {names_file}, and folders such as {folders[0]!r} are numbers, "
            "which do not say what a class is called; write it with a row `name label` "
            "for each class"
        )
    names = tuple(nfc(folder).replace("_", " ") for folder in folders)
    parent = names_file.parent
    check_names([(f"{parent}: a folder", name) for name in names])
    return names, {nfc(folder): label for label, folder in enumerate(folders)}


def label_by_folder(class_names: Sequence[str], wnids: Sequence[str]) -> dict[str, int]:
    """Labels by every name that a folder may have; a class's own name goes first.

    Args:
      class_names: C names.
      wnids: C wnids, or none where folders do not carry them.
    """
    labels = {str(label): label for label in range(len(class_names))}
    if wnids:  # names of ImageNet repeat
        return labels | {wnid: label for label, wnid in enumerate(wnids)}
    for label, name in enumerate(class_names):
        labels |= {name: label, name.replace(" ", "_"): label}
    return labels


def _rows(
    root: Path,
    folder: Path,
    names: Sequence[str],
    labels: Mapping[str, int],
    names_file: str,
    left_out: Counter[str],
) -> Rows:
    paths, classes = [], []
    for name in names:
        if (label := label_of(name, labels)) is None:
            raise ListError(
                f"{folder / name}: {names_file} has no class of that name or label"
                f"{near_name(name, labels)}; rename the folder, or add the class"
            )
        others: Counter[str] = Counter()
        listed = pictures(folder / name, others)
        left_out.update(others)
        if not listed and (unread := only_unread(others)):
            raise ListError(
                f"{folder / name}: {unread}, which are not read; save them as JPEG or "
                "PNG"
            )
        paths += [os.path.relpath(path, root) for path in listed]
        classes += [label] * len(listed)
    return Rows(folder, paths, classes, lambda i: f" picture {paths[i]}", left_out)


def only_unread(left_out: Mapping[str, int]) -> str:
    """Returns what a class's folder without pictures has; '' if it is empty.

    Args:
      left_out: what is no picture, by reason.
    """
    kinds = [
        f"{number:,} {reason}"
        for reason, number in left_out.items()
        if reason not in (HIDDEN, SYSTEM)
    ]
    return f"no picture but {', '.join(kinds)}" if kinds else ""


def label_of(name: str, labels: Mapping[str, int]) -> int | None:
    """The label of a folder, whose number may be padded so that it sorts."""
    name = nfc(name)
    if name.isdecimal() and name not in labels:
        name = str(int(name))  # which has at most 255 digits
    return labels.get(name)


def _entries(directory: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise ListError(
            f"{directory} cannot be read: {error.strerror}; mend that"
        ) from None


def pictures(folder: Path, left_out: Counter[str]) -> list[str]:
    """Pictures of a class at any depth, see `picture_folders.walk`.

    Args:
      folder: of the class.
      left_out: counts what is no picture, by reason.

    Raises:
      ListError: if a directory cannot be read.
    """
    found: list[str] = []
    for path, error in walk(os.fspath(folder), left_out):
        if error and error != NO_FILE:  # of a file, where rows are compared with files
            raise ListError(f"{path} cannot be read: {error}; mend that")
        found.append(path)
    return sorted(found)
