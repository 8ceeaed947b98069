"""Picture files that a command is given: files, folders, patterns, a list of paths.

They come one by one and in order, so that a million take no memory: a folder's as its
names sort, folder by folder. Not in the paper.
"""

import collections
import glob
import os
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from vl_ltr_jax.data.folders import EXTENSIONS

# What a folder is searched for; a file that is named may have any suffix.
SUFFIXES = EXTENSIONS | {".gif", ".jfif", ".jpe", ".avif"}
_BLOCK = 1 << 16  # bytes of a list that are read at once


class Found(NamedTuple):
    """A file to read, or why there is none.

    Attributes:
      path: as it was given, or the folder given and the path in it.
      error: the reason; empty for a file.
    """

    path: str
    error: str = ""


def find(
    name: str, left_out: collections.Counter[str], *, patterns: bool = True
) -> Iterator[Found]:
    """The files that an argument names.

    Args:
      name: a file, a folder (searched to any depth, through links, without hidden
        names), or a pattern with `*`, `?`, `[` or `**`. A pattern that names no suffix
        finds pictures only.
      left_out: counts the files of folders that are no pictures, by suffix.
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
            yield Found(name, _reason(error))
        return
    if stat.S_ISDIR(mode):
        yield from _in_folder(name, left_out)
    elif stat.S_ISREG(mode) or stat.S_ISFIFO(mode):
        yield Found(name)
    else:
        yield Found(name, "neither a file nor a folder but a device or a socket")


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


def _matches(pattern: str, left_out: collections.Counter[str]) -> Iterator[Found]:
    """As a shell would have it; folders that `**` finds hold what it finds as well."""
    any_suffix = "." in os.path.basename(pattern)
    empty = True
    for path in sorted(glob.iglob(pattern, recursive=True)):
        if os.path.isdir(path):
            if "**" in pattern:
                continue
            yield from _in_folder(path, left_out)
        elif any_suffix or _is_picture(path, left_out):
            # A pipe would be waited for, a device read for ever.
            yield Found(path, "" if os.path.isfile(path) else "no file")
        else:
            continue
        empty = False
    if empty:
        yield Found(pattern, "no file, and as a pattern it matches no picture")


def _in_folder(folder: str, left_out: collections.Counter[str]) -> Iterator[Found]:
    """Pictures at any depth; a folder that contains itself by a link is left once."""
    empty = True
    # Of each open folder: what is left of it, and which it is.
    open_folders: list[tuple[Iterator[os.DirEntry[str]], tuple[int, int]]] = []

    def enter(path: str) -> Iterator[Found]:
        try:
            status = os.stat(path)
            identity = status.st_dev, status.st_ino
            if any(identity == known for _, known in open_folders):
                return
            with os.scandir(path) as entries:
                ordered = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            yield Found(path, _reason(error))
        else:
            open_folders.append((iter(ordered), identity))

    for fault in enter(folder):
        yield fault
        empty = False
    while open_folders:
        entry = next(open_folders[-1][0], None)
        if entry is None:
            open_folders.pop()
        elif entry.name.startswith("."):
            left_out["hidden"] += 1
        elif _is_folder(entry):
            for fault in enter(entry.path):
                yield fault
                empty = False
        elif _is_picture(entry.path, left_out):
            yield Found(entry.path, "" if _is_file(entry) else "no file")
            empty = False
    if empty:
        shown = ", ".join(sorted(SUFFIXES))
        yield Found(folder, f"a folder without a picture ({shown})")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that cannot be followed
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    """False for pipes, which would be waited for, and for broken links."""
    try:
        return entry.is_file()
    except OSError:
        return False


def _is_picture(path: str, left_out: collections.Counter[str]) -> bool:
    suffix = os.path.splitext(path)[1].lower()
    if suffix in SUFFIXES:
        return True
    left_out[suffix or "no suffix"] += 1
    return False


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)
