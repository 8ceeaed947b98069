"""Class names from a data set's label file, in the four layouts in use.

- `plain`: labels.txt with rows `name label`.
- `places_lt`: the same, with names such as `/a/airfield`.
- `imagenet_lt`: labels.txt with rows `wnid number name`; the label of a class is the
  rank of its wnid, and the number in the row is ignored.
- `inat18`: categories.json, a list of objects with `id` (the label) and `name`.
"""

import difflib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from vl_ltr_jax.data.text_files import read_text_file

LAYOUTS = ("plain", "imagenet_lt", "places_lt", "inat18")


def unknown_name(kind: str, given: str, allowed: Iterable[str]) -> ValueError:
    """The error for a name that is not one of those allowed, with the nearest."""
    names = list(allowed)
    near = difflib.get_close_matches(given, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ValueError(f"{kind} is {given!r}; allowed: {', '.join(names)}.{hint}")


def near_name(given: str, allowed: Iterable[str]) -> str:
    """The part of a message that names the nearest of those allowed, if any is near."""
    near = difflib.get_close_matches(given, list(allowed), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def read_class_names(root: str | Path, layout: str = "plain") -> tuple[str, ...]:
    """Reads the class names of a data set, in label order.

    Underscores become spaces. Names of `places_lt` keep the blank and the letter in
    front (` a airfield`) as in VL-LTR, whose published results rest on prompts with
    them. In `plain` and `places_lt` the name is what tells classes apart, so it must be
    unique; ImageNet has two classes called crane, and wnids must be unique instead.

    Args:
        root: the data set's directory.
        layout: `plain`, `imagenet_lt`, `places_lt` or `inat18`; see the module.

    Raises:
        ValueError: an unknown layout, a missing file, a malformed row, a duplicate, or
            labels that are not 0 .. C-1; names the file and the line.
    """
    if layout not in LAYOUTS:
        raise unknown_name("the label layout", layout, LAYOUTS)
    file = "categories.json" if layout == "inat18" else "labels.txt"
    path = Path(root) / file
    if not path.is_file():
        raise ValueError(
            f"{path} does not exist; the layout {layout!r} reads its class names there"
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


def read_wnids(root: str | Path) -> tuple[str, ...]:
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
        raise ValueError(f"{path}: names no class; each has a row")
    return lines


def _name_and_label(where: str, line: str) -> tuple[str, str, int]:
    fields = line.rsplit(maxsplit=1)
    if len(fields) < 2:
        raise ValueError(
            f"{where}: {line.strip()!r} is not a row `name label`, such as `tench 0`"
        )
    name, label = fields
    if not label.isdecimal() or len(label) > 9:
        raise ValueError(
            f"{where}: the label {label!r} of {name.strip()!r} is not a whole number "
            "from 0 up; a row is `name label`"
        )
    return where, name.strip().replace("_", " "), int(label)


def _imagenet_lt(lines: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Wnid and name of each class, in label order."""
    rows = []
    for where, line in lines:
        fields = line.split()
        if len(fields) < 3:
            raise ValueError(
                f"{where}: {line.strip()!r} is not a row `wnid number name`, such as "
                "`n01440764 0 tench`"
            )
        rows.append((where, fields[0], fields[-1].replace("_", " ")))
    _check_unique("wnid", [(where, wnid) for where, wnid, _ in rows])
    return sorted((wnid, name) for _, wnid, name in rows)


def _inat18(path: Path, text: str) -> tuple[str, ...]:
    try:
        categories = json.loads(text)
    except json.JSONDecodeError as fault:
        raise ValueError(f"{path}:{fault.lineno}: not JSON: {fault.msg}") from None
    if not isinstance(categories, list) or not categories:
        raise ValueError(
            f"{path}: {str(categories)[:40]!r} is not a list of categories, such as "
            '[{"id": 0, "name": "Acacia dealbata"}]'
        )
    rows = []
    for number, category in enumerate(categories):
        where = f"{path}: category {number} of the list"
        match category:
            case {"id": int(label), "name": str(name)}:
                rows.append((where, name, label))
            case _:
                raise ValueError(
                    f"{where} is {category!r}; it needs an integer `id` and a `name`"
                )
    return _in_label_order(rows)


def _check_unique(what: str, rows: Iterable[tuple[str, str | int]]) -> None:
    seen: dict[str | int, str] = {}
    for where, value in rows:
        if value in seen:
            raise ValueError(
                f"{where}: the {what} {value!r} was given before, at {seen[value]}; "
                "each class has one row"
            )
        seen[value] = where


def _in_label_order(rows: Sequence[tuple[str, str, int]]) -> tuple[str, ...]:
    _check_unique("label", [(where, label) for where, _, label in rows])
    for where, name, label in rows:
        if not 0 <= label < len(rows):
            absent = set(range(len(rows))) - {label for _, _, label in rows}
            raise ValueError(
                f"{where}: the label {label} of {name!r} lies outside 0 .. "
                f"{len(rows) - 1}, the labels of {len(rows)} classes; no class has the "
                f"label {min(absent)}"
            )
    return tuple(name for _, name, _ in sorted(rows, key=lambda row: row[2]))
