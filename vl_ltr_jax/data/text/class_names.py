"""Class names from a data set's label file, in the four layouts in use.

- `plain`: labels.txt with rows `name label`.
- `places_lt`: the same, with names such as `/a/airfield`.
- `imagenet_lt`: labels.txt with rows `wnid number name`, the name with underscores or
  with blanks. The label of a class is the rank of its wnid; the number is ignored.
- `inat18`: categories.json, a list of objects with `id` (the label) and `name`.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from vl_ltr_jax.data.root import RootLike
from vl_ltr_jax.data.text.files import read_text_file
from vl_ltr_jax.logs.messages import nfc, shortened, unknown_name
from vl_ltr_jax.runtime.errors import UserError
from vl_ltr_jax.storage import strict_json

MOST_CLASSES = 1_000_000
LONGEST_NAME = 1000  # characters; a caption may have hundreds
# Ends of lines and other controls, but for tabs, and halves of characters: what Python
# makes of bytes in the name of a folder that are not UTF-8.
_UNFIT = re.compile("[\0-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
LAYOUTS = ("plain", "imagenet_lt", "places_lt", "inat18")


class LabelFileError(UserError):
    """Names of classes that are missing, malformed or unfit."""


def check_names(names: Sequence[tuple[str, str]]) -> None:
    """Checks where each class is named, and its name.

    A line end in a name would be another row of every table, and half a character can
    be written into no file.

    Raises:
        LabelFileError: too many names, or one that is empty, too long, or has such a
            character.
    """
    if len(names) > MOST_CLASSES:
        raise LabelFileError(
            f"{names[0][0]} is the first of {len(names)} classes; there may be "
            f"{MOST_CLASSES}"
        )
    for where, name in names:
        if found := _UNFIT.search(name):
            raise LabelFileError(
                f"{where}: the class name {shortened(name)} has the character "
                f"U+{ord(found[0]):04X}, which is no part of a name; write it without, "
                "in UTF-8"
            )
        if not name.strip() or len(name) > LONGEST_NAME:
            raise LabelFileError(
                f"{where}: the class name {shortened(name)} is empty or has over "
                f"{LONGEST_NAME} characters; prompts are made of it, so write a short "
                "one"
            )


def read_class_names(root: RootLike, layout: str = "plain") -> tuple[str, ...]:
    """Reads the class names of a data set, in label order.

    Underscores become spaces, and Unicode's composed form is taken. Names of
    `places_lt` keep the blank and the letter in front (` a airfield`) as in VL-LTR,
    whose published results rest on prompts with them. In `plain` and `places_lt` the
    name is what tells classes apart, so it must be unique; ImageNet has two classes
    called crane, and wnids must be unique instead.

    Args:
        root: the data set's directory.
        layout: `plain`, `imagenet_lt`, `places_lt` or `inat18`; see the module.

    Raises:
        ValueError: an unknown layout, a missing file, a malformed row, a duplicate, or
            labels that are not 0 .. C-1; names the file and the line.
    """
    if layout not in LAYOUTS:
        raise unknown_name("the label layout", layout, LAYOUTS)
    path = Path(root) / ("categories.json" if layout == "inat18" else "labels.txt")
    if not path.is_file():
        other = "; the list `categories` of train2018.json has that form"
        raise LabelFileError(
            f"{path} does not exist; the layout {layout!r} reads its class names there"
            f"{other if layout == 'inat18' else ''}"
        )
    text = read_text_file(path)
    if layout == "inat18":
        return _inat18(path, text)
    lines = _lines(path, text)
    if layout == "imagenet_lt":
        return tuple(name for _, name in _imagenet_lt(lines))
    rows = [_name_and_label(where, line) for where, line in lines]
    if layout == "places_lt":
        rows = [(w, name.replace("/", " "), label) for w, name, label in rows]
    _check_unique("class name", [(where, name) for where, name, _ in rows])
    return _in_label_order(rows)


def read_wnids(root: RootLike) -> tuple[str, ...]:
    """Reads the wnids of the layout `imagenet_lt`, in label order.

    Raises:
        ValueError: a malformed row or a wnid given twice; names the file and the line.
    """
    path = Path(root) / "labels.txt"
    rows = _imagenet_lt(_lines(path, read_text_file(path)))
    return tuple(wnid for wnid, _ in rows)


def _lines(path: Path, text: str) -> list[tuple[str, str]]:
    """Where each row is, and the row."""
    lines = [
        (f"{path}:{number}", line)
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip()
    ]
    if not lines:
        raise LabelFileError(f"{path}: names no class; each has a row")
    return lines


def _name_and_label(where: str, line: str) -> tuple[str, str, int]:
    fields = line.rsplit(maxsplit=1)
    if len(fields) < 2:
        raise LabelFileError(
            f"{where}: {shortened(line.strip())} is not a row `name label`, "
            "such as `tench 0`"
        )
    name, label = fields
    if not label.isdecimal() or len(label) > 9:
        raise LabelFileError(
            f"{where}: the label {shortened(label)} of {shortened(name.strip())} is "
            "not a whole number from 0 up; a row is `name label`"
        )
    return where, nfc(name.strip()).replace("_", " "), int(label)


def _imagenet_lt(lines: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Wnid and name of each class, in label order."""
    rows = []
    for where, line in lines:
        fields = line.split(maxsplit=2)
        if len(fields) < 3 or not fields[1].isdecimal():
            raise LabelFileError(
                f"{where}: {shortened(line.strip())} is not a row "
                "`wnid number name`, such as `n01440764 0 tench`"
            )
        wnid, _, name = fields
        if "_" in name and len(name.split()) > 1:  # or is there a fourth column?
            raise LabelFileError(
                f"{where}: the name {shortened(name.strip())} has both blanks and "
                "underscores, so its end is not clear; join its words by underscores, "
                "and leave out other columns"
            )
        rows.append((where, wnid, " ".join(nfc(name).replace("_", " ").split())))
    _check_unique("wnid", [(where, wnid) for where, wnid, _ in rows])
    check_names([(where, name) for where, _, name in rows])
    return sorted((wnid, name) for _, wnid, name in rows)


def _inat18(path: Path, text: str) -> tuple[str, ...]:
    try:
        categories = strict_json.parse(text)
    except json.JSONDecodeError as fault:
        raise LabelFileError(f"{path}:{fault.lineno}: not JSON: {fault.msg}") from None
    except ValueError as fault:
        raise LabelFileError(f"{path}: not JSON: {fault}") from None
    if not isinstance(categories, list) or not categories:
        raise LabelFileError(
            f"{path}: {shortened(categories)!r} is not a list of categories, such as "
            '[{"id": 0, "name": "Acacia dealbata"}]'
        )
    rows = []
    for number, category in enumerate(categories):
        where = f"{path}: category {number} of the list"
        match category:
            case {"id": int(label), "name": str(name)} if (
                label is not True and label is not False
            ):
                rows.append((where, nfc(name), label))
            case _:
                raise LabelFileError(
                    f"{where} is {shortened(category)}; it needs an integer `id` and "
                    "a `name`"
                )
    return _in_label_order(rows)


def _check_unique(what: str, rows: Iterable[tuple[str, str | int]]) -> None:
    seen: dict[str | int, str] = {}
    for where, value in rows:
        if value in seen:
            raise LabelFileError(
                f"{where}: the {what} {shortened(value)} was given before, at "
                f"{seen[value]}; each class has one row"
            )
        seen[value] = where


def _in_label_order(rows: Sequence[tuple[str, str, int]]) -> tuple[str, ...]:
    check_names([(where, name) for where, name, _ in rows])
    _check_unique("label", [(where, label) for where, _, label in rows])
    for where, name, label in rows:
        if not 0 <= label < len(rows):
            absent = set(range(len(rows))) - {label for _, _, label in rows}
            raise LabelFileError(
                f"{where}: the label {label} of {shortened(name)} lies outside 0 .. "
                f"{len(rows) - 1}, the labels of {len(rows)} classes; no class has the "
                f"label {min(absent)}"
            )
    return tuple(name for _, name, _ in sorted(rows, key=lambda row: row[2]))
