"""Picture files that a command is given: files, folders, patterns, a list of paths.

They come one by one and in order, so that a million take no memory: a folder's as its
names sort, folder by folder. Not in the paper.
"""

import collections
import glob
import itertools
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from vl_ltr_jax.data.images.picture_folders import (
    NO_FILE,
    SUFFIXES,
    PictureFile,
    reason_for_name,
    reason_to_leave_out,
    walk,
)

_BLOCK = 1 << 16  # bytes of a list that are read at once


def find(
    name: str, left_out: collections.Counter[str], *, patterns: bool = True
) -> Iterator[PictureFile]:
    """The files that an argument names.

    Args:
      name: a file, which may have any suffix, a folder, see `picture_folders.walk`, or
        a pattern with `*`, `?`, `[` or `**`. A pattern that names no suffix finds
        pictures only.
      left_out: counts what is no picture, by reason.
      patterns: False takes every name as it is.

    Yields:
      At least one: of a name without files, why.
    """
    try:
        mode = os.stat(name).st_mode
    except (OSError, ValueError) as error:  # the second for a name with a NUL
        if patterns and glob.has_magic(name):
            yield from _matches(name, left_out)
        else:
            yield PictureFile(name, _reason(error))
        return
    if stat.S_ISDIR(mode):
        yield from _in_folder(name, left_out)
    elif stat.S_ISREG(mode) or stat.S_ISFIFO(mode):
        yield PictureFile(name)
    else:
        yield PictureFile(name, "neither a file nor a folder but a device or a socket")


def read_list(read: Callable[[int], bytes]) -> Iterator[str]:
    """The paths of a list as they arrive: one a line, or each ended by a NUL.

    NULs must be met in the first bytes to be the separator, as `find -print0` has them.
    Empty lines are passed over.

    Args:
      read: gives up to so many bytes of the list, none at its end.
    """
    rest, separator = b"", b""
    while block := read(_BLOCK):
        rest += block
        if not separator:
            separator = next((mark for mark in (b"\0", b"\n") if mark in rest), b"")
            if not separator:
                continue
        *whole, rest = rest.split(separator)
        yield from _names(whole, separator)
    yield from _names([rest], separator)


def _names(lines: list[bytes], separator: bytes) -> Iterator[str]:
    for line in lines:
        if separator != b"\0":
            line = line.removesuffix(b"\r")
        if line:
            yield os.fsdecode(line)


def _matches(pattern: str, left_out: collections.Counter[str]) -> Iterator[PictureFile]:
    """As a shell would have it; folders that `**` finds hold what it finds as well."""
    any_suffix = "." in os.path.basename(pattern)
    literal = sum(1 for _ in itertools.takewhile(_is_literal, Path(pattern).parts))
    empty = True
    for path in sorted(glob.iglob(pattern, recursive=True)):
        parts = Path(path).parts[literal:]
        if reason := next(filter(None, map(reason_for_name, parts)), ""):
            left_out[reason] += os.path.isfile(path)
            continue
        if os.path.isdir(path):
            if "**" in pattern:
                continue
            yield from _in_folder(path, left_out)
        elif any_suffix or _is_picture(path, left_out):
            # A pipe would be waited for, a device read for ever.
            yield PictureFile(path, "" if os.path.isfile(path) else NO_FILE)
        else:
            continue
        empty = False
    if empty:
        yield PictureFile(pattern, "no file, and as a pattern it matches no picture")


def _is_literal(part: str) -> bool:
    return not glob.has_magic(part)


def _in_folder(
    folder: str, left_out: collections.Counter[str]
) -> Iterator[PictureFile]:
    empty = True
    for picture in walk(folder, left_out):
        yield picture
        empty = False
    if empty:
        shown = ", ".join(sorted(SUFFIXES))
        yield PictureFile(folder, f"a folder without a picture ({shown})")


def _is_picture(path: str, left_out: collections.Counter[str]) -> bool:
    reason = reason_to_leave_out(os.path.basename(path))
    if reason:
        left_out[reason] += 1
    return not reason


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)
