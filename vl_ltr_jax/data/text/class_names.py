"""Class names from a data set's label file, in the four layouts in use.

- `plain`: labels.txt with rows `name label`.
- `places_lt`: the same, with names such as `/a/airfield`.
- `imagenet_lt`: labels.txt with rows `wnid number name`, the name with underscores or
  with blanks. The label of a class is the rank of its wnid; the number has no meaning.
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

# Controls except tabs, which break the rows of tables, and half characters: Python's
# form of bytes in the name of a folder that are not UTF-8.
_UNFIT = re.compile("[\0-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
LAYOUTS = ("plain", "imagenet_lt", "places_lt", "inat18")


class LabelFileError(UserError):
    """Names of classes that are missing, malformed or unfit."""


def check_names(names: Sequence[tuple[str, str]]) -> None:
    """Checks pairs of a place, for messages, and the class name there.

    Raises:
      LabelFileError: a name is empty, or has a character that tables cannot hold.
    """
    for where, name in names:
        if unfit := _UNFIT.search(name):
            raise LabelFileError(
                f"{where}: the class name {shortened(name)} has the character "
                f"U+{ord(unfit[0]):04X}, which no table can hold. Write it without, in "
                "UTF-8."
            )
        if not name.strip():
            raise LabelFileError(f"{where}: the class name is empty. Write a name.")


def read_class_names(root: RootLike, layout: str = "plain") -> tuple[str, ...]:
    """Returns the class names of a data set, in label order.

    Underscores become spaces, and Unicode's composed form is taken. Names of
    `places_lt` keep the blank and the letter in front (` a airfield`), as in VL-LTR:
    its published results rest on such prompts. Names must be unique in `plain` and
    `places_lt`. ImageNet has two classes called crane, so there wnids must be unique.

    Args:
      root: directory of the data set.
      layout: `plain`, `imagenet_lt`, `places_lt` or `inat18`; see the module.

    Raises:
      UnknownNameError: the layout is unknown.
      LabelFileError: the file is missing or malformed, or labels are not 0 to C-1.
    """
    if layout not in LAYOUTS:
        raise unknown_name("the label layout", layout, LAYOUTS)
    path = Path(root) / ("categories.json" if layout == "inat18" else "labels.txt")
    if not path.is_file():
        advice = "Write it there."
        if layout == "inat18":
            advice = "The list `categories` of train2018.json has that form."
        raise LabelFileError(
            f"{path} does not exist. data.layout={layout!r} takes class names from it. "
            f"{advice}"
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
    """Returns the wnids of the layout `imagenet_lt`, in label order.

    Raises:
      LabelFileError: a row is malformed or a wnid repeated.
    """
    path = Path(root) / "labels.txt"
    rows = _imagenet_lt(_lines(path, read_text_file(path)))
    return tuple(wnid for wnid, _ in rows)


def _lines(path: Path, text: str) -> list[tuple[str, str]]:
    """Returns rows with their place."""
    lines = [
        (f"{path}:{number}", line)
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip()
    ]
    if not lines:
        raise LabelFileError(f"{path}: has no row. Write a row for each class.")
    return lines


def _name_and_label(where: str, line: str) -> tuple[str, str, int]:
    name, label = [*line.rsplit(maxsplit=1), ""][:2]
    if not label.isdecimal() or len(label) > 9:
        raise LabelFileError(
            f"{where}: {shortened(line.strip())} is not a row `name label`, such as "
            "`tench 0`."
        )
    return where, nfc(name.strip()).replace("_", " "), int(label)


def _imagenet_lt(lines: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Returns wnid and name of each class, in label order."""
    rows = []
    for where, line in lines:
        fields = line.split(maxsplit=2)
        if len(fields) < 3 or not fields[1].isdecimal():
            raise LabelFileError(
                f"{where}: {shortened(line.strip())} is not a row `wnid number name`, "
                "such as `n01440764 0 tench`."
            )
        wnid, _, name = fields
        if "_" in name and len(name.split()) > 1:  # or is there a fourth column?
            raise LabelFileError(
                f"{where}: the name {shortened(name.strip())} has blanks and "
                "underscores, so its end is not clear. Join its words by underscores, "
                "and remove other columns."
            )
        rows.append((where, wnid, " ".join(nfc(name).replace("_", " ").split())))
    _check_unique("wnid", [(where, wnid) for where, wnid, _ in rows])
    check_names([(where, name) for where, _, name in rows])
    return sorted((wnid, name) for _, wnid, name in rows)


def _inat18(path: Path, text: str) -> tuple[str, ...]:
    try:
        categories = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LabelFileError(f"{path}: not JSON: {error}") from None
    if not isinstance(categories, list) or not categories:
        raise LabelFileError(
            f"{path}: is not a list of categories such as "
            '[{"id": 0, "name": "Acacia dealbata"}].'
        )
    rows = []
    for number, category in enumerate(categories):
        where = f"{path}: category {number} of the list"
        match category:
            case {"id": int(label), "name": str(name)} if type(label) is int:
                rows.append((where, nfc(name), label))
            case _:
                raise LabelFileError(
                    f"{where}: {shortened(category)} has no integer `id` and `name`."
                )
    return _in_label_order(rows)


def _check_unique(kind: str, rows: Iterable[tuple[str, str | int]]) -> None:
    places: dict[str | int, str] = {}
    for where, value in rows:
        if (first := places.setdefault(value, where)) != where:
            raise LabelFileError(
                f"{where}: the {kind} {shortened(value)} was given before, at {first}. "
                "Each class has one row."
            )


def _in_label_order(rows: Sequence[tuple[str, str, int]]) -> tuple[str, ...]:
    check_names([(where, name) for where, name, _ in rows])
    _check_unique("label", [(where, label) for where, _, label in rows])
    for where, name, label in rows:
        if not 0 <= label < len(rows):
            absent = set(range(len(rows))) - {label for _, _, label in rows}
            raise LabelFileError(
                f"{where}: the label {label} of {shortened(name)} lies outside 0 to "
                f"{len(rows) - 1}; no class has the label {min(absent)}."
            )
    return tuple(name for _, name, _ in sorted(rows, key=lambda row: row[2]))
