"""Picture files that the arguments of a command name: files, folders, patterns.

They come one by one and in order, so a million take no memory. Not in the paper.
"""

import collections
import glob
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from vl_ltr_jax.data.images.picture_folders import (
    NO_FILE,
    SUFFIXES,
    PictureFile,
    reason_for_name,
    reason_to_leave_out,
    walk,
)


def find(
    name: str, left_out: collections.Counter[str], *, patterns: bool = True
) -> Iterator[PictureFile]:
    """Yields the picture files of an argument.

    Args:
      name: a file with any suffix; a folder, see `picture_folders.walk`; or a pattern
        with `*`, `?`, `[` or `**`. A pattern without a suffix finds pictures only.
      left_out: counts the other files by reason.
      patterns: False takes every name literally.

    Yields:
      At least one; for a name without files, the reason.
    """
    if os.path.isdir(name):
        yield from _in_folder(name, left_out)
    elif os.path.isfile(name):
        yield PictureFile(name)
    elif patterns and glob.has_magic(name):
        yield from _matches(name, left_out)
    else:
        yield PictureFile(name, _fault(name))


def _matches(pattern: str, left_out: collections.Counter[str]) -> Iterator[PictureFile]:
    """Yields the files of a pattern; `**` enters folders itself."""
    any_suffix = "." in os.path.basename(pattern)
    is_literal = [not glob.has_magic(part) for part in Path(pattern).parts]
    num_literal = sum(1 for _ in itertools.takewhile(bool, is_literal))
    empty = True
    for path in sorted(glob.iglob(pattern, recursive=True)):
        parts = Path(path).parts[num_literal:]
        reason = next(filter(None, map(reason_for_name, parts)), "")
        if os.path.isdir(path):
            if reason or "**" in pattern:
                continue
            yield from _in_folder(path, left_out)
        else:
            if not any_suffix:
                reason = reason or reason_to_leave_out(parts[-1])
            if reason:
                left_out[reason] += 1
                continue
            yield PictureFile(path, "" if os.path.isfile(path) else NO_FILE)
        empty = False
    if empty:
        yield PictureFile(pattern, "no file, and as a pattern it matches no picture")


def _in_folder(
    folder: str, left_out: collections.Counter[str]
) -> Iterator[PictureFile]:
    empty = True
    for picture in walk(folder, left_out):
        yield picture
        empty = False
    if empty:
        suffixes = ", ".join(sorted(SUFFIXES))
        yield PictureFile(folder, f"a folder without a picture ({suffixes})")


def _fault(name: str) -> str:
    """Returns why a name is no file."""
    try:
        os.stat(name)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        return getattr(error, "strerror", None) or str(error)
    return NO_FILE
