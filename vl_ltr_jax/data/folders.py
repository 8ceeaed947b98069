"""Image folders: ROOT/SPLIT/CLASS/picture, as torchvision's ImageFolder has them.

Not in the paper. Which class a folder is, `labels.txt` says (or `categories.json`); a
folder may carry the class's name, its wnid (layout `imagenet_lt`) or its label. Without
that file the classes are the folders' names in alphabetical order, unless these are
numbers: alphabetical order puts 10 before 2, which would give nearly every class the
text of another.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from vl_ltr_jax.data.class_names import (
    check_names,
    near_name,
    read_class_names,
    read_wnids,
)
from vl_ltr_jax.data.roots import Root, RootLike, leads_out
from vl_ltr_jax.data.sources import (
    WIKI,
    ListError,
    LongTailedData,
    Rows,
    Texts,
    from_rows,
)

# Of torchvision, which the field's folders were made for.
EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
)
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
    root = Root.of(root)
    folders = {split: split_folder(root, split) for split in _FOLDERS}
    for split in ("train", "val"):
        if folders[split] is None:
            raise ListError(
                f"no directory {root / split}; image folders are ROOT/SPLIT/CLASS with "
                "the splits train, val and test"
            )
    found = {split: class_folders(path) for split, path in folders.items() if path}
    names_file = "categories.json" if layout == "inat18" else "labels.txt"
    if (root / names_file).is_file():
        class_names = read_class_names(root, layout)
        wnids = read_wnids(root) if layout == "imagenet_lt" else ()
        labels = label_by_folder(class_names, wnids)
    else:
        class_names, labels = _alphabetical(root / names_file, found["train"])
    rows = {
        split: _rows(root, path, found[split], labels, names_file)
        for split, path in folders.items()
        if path
    }
    rows.setdefault("test", rows["val"])
    return from_rows(name, root, class_names, rows, texts)


def split_folder(root: Root, split: str) -> Path | None:
    """The directory of 'train', 'val' or 'test', if there is one."""
    paths = (root / name for name in _FOLDERS[split])
    return next((path for path in paths if path.is_dir()), None)


def class_folders(folder: Path) -> list[str]:
    """Names of the directories in that of a split.

    Raises:
      ListError: if there is none, or the directory cannot be read.
    """
    names = [entry.name for entry in _entries(folder) if _is_folder(entry)]
    if not names:
        raise ListError(
            f"{folder} has no folder; image folders are ROOT/SPLIT/CLASS/picture"
        )
    return names


def _alphabetical(
    names_file: Path, folders: Sequence[str]
) -> tuple[tuple[str, ...], dict[str, int]]:
    if any(folder.isdecimal() for folder in folders):
        raise ListError(
            f"no file {names_file}, and folders such as {folders[0]!r} are numbers, "
            "which do not say what a class is called; write it with a row `name label` "
            "for each class"
        )
    names = tuple(folder.replace("_", " ") for folder in folders)
    parent = names_file.parent
    check_names([(f"{parent}: a folder", name) for name in names])
    return names, {folder: label for label, folder in enumerate(folders)}


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
    root: Root,
    folder: Path,
    names: Sequence[str],
    labels: Mapping[str, int],
    names_file: str,
) -> Rows:
    paths, classes = [], []
    for name in names:
        if (label := label_of(name, labels)) is None:
            raise ListError(
                f"{folder / name}: {names_file} has no class of that name or label"
                f"{near_name(name, labels)}; rename the folder, or add the class"
            )
        for path in sorted(pictures(folder / name, root)):
            paths.append(os.path.relpath(path, root))
            classes.append(label)
    return Rows(folder, paths, classes, lambda i: f" picture {paths[i]}")


def label_of(name: str, labels: Mapping[str, int]) -> int | None:
    """The label of a folder, whose number may be padded so that it sorts."""
    if name.isdecimal() and name not in labels:
        name = str(int(name))  # which has at most 255 digits
    return labels.get(name)


def pictures(folder: Path, root: Root) -> list[str]:
    """Pictures at any depth, as ImageFolder finds them.

    A directory that several links lead to counts once; so does a loop of links.

    Args:
      folder: where to look.
      root: of the data set, out of which no directory may lead.

    Raises:
      ListError: if a directory cannot be read, or a link leads out of the root.
    """
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    todo = [os.fspath(folder)]
    while todo:
        directory = todo.pop()
        if (directory == os.fspath(folder) or os.path.islink(directory)) and (
            target := root.way_out(directory)
        ):
            raise ListError(f"{directory} cannot be read: {leads_out(root, target)}")
        entries = _entries(directory)
        status = os.stat(directory)
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        todo += [entry.path for entry in entries if _is_folder(entry)]
        found += [
            entry.path
            for entry in entries
            if os.path.splitext(entry.name)[1].lower() in EXTENSIONS
            and not _is_folder(entry)
        ]
    return found


def _entries(directory: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise ListError(
            f"{directory} cannot be read: {error.strerror}; mend that"
        ) from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
