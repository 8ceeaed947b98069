"""The pictures of a folder: one reader for training, for the check and for `predict`.

Not in the paper. What systems and programs leave beside pictures is no picture, and its
folder no class: hidden names (`._a.jpg` of a Mac, `.ipynb_checkpoints` of Jupyter),
`Thumbs.db` and the like. What is left out is counted, by reason.
"""

import collections
import os
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from vl_ltr_jax.logs.messages import counted, printable

# Of all formats in `decode.FORMATS`, as Pillow has them.
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif")
    + (".tif", ".tiff", ".bmp", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".avifs")
    + (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c")
)
HIDDEN, SYSTEM = "hidden", "of the system"
NO_FILE = "no file"
_SYSTEM_NAMES = frozenset(
    ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir")
    + ("$recycle.bin", "system volume information")
)
LeftOut = collections.Counter[str]


class Found(NamedTuple):
    """A file to read, or why there is none.

    Attributes:
      path: as it was given, or the folder given and the path in it.
      error: the reason; empty for a file.
    """

    path: str
    error: str = ""


def reason_for_name(name: str) -> str:
    """Returns why a file or folder of that name is passed over; '' if it is not."""
    if name.startswith("."):
        return HIDDEN
    return SYSTEM if name.lower() in _SYSTEM_NAMES else ""


def reason_to_leave_out(name: str) -> str:
    """Returns why a file of that name is no picture; '' if it is one."""
    suffix = os.path.splitext(name)[1].lower()
    other = "" if suffix in SUFFIXES else suffix or "no suffix"
    return reason_for_name(name) or other


def walk(
    folder: str, left_out: LeftOut, *, check: Callable[[str], None] = lambda path: None
) -> Iterator[Found]:
    """Pictures of a folder at any depth, through links.

    A folder that several links lead to is visited once; so is a loop of links.

    Args:
      folder: where to look.
      left_out: counts what is no picture, by reason.
      check: called with the folder and each link to one, before it is entered.

    Yields:
      Pictures as their names sort, folder by folder; for a folder that cannot be read,
      or a picture that is no file, why.
    """
    seen: set[tuple[int, int]] = set()
    open_folders: list[Iterator[os.DirEntry[str]]] = []

    def enter(path: str) -> Iterator[Found]:
        try:
            status = os.stat(path)
            if (identity := (status.st_dev, status.st_ino)) in seen:
                return
            seen.add(identity)
            with os.scandir(path) as entries:
                ordered = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            yield Found(path, error.strerror or str(error))
        else:
            open_folders.append(iter(ordered))

    check(folder)
    yield from enter(folder)
    while open_folders:
        entry = next(open_folders[-1], None)
        if entry is None:
            open_folders.pop()
        elif reason := reason_for_name(entry.name):
            left_out[reason] += 1
        elif is_folder(entry):
            if entry.is_symlink():
                check(entry.path)
            yield from enter(entry.path)
        elif reason := reason_to_leave_out(entry.name):
            left_out[reason] += 1
        else:
            yield Found(entry.path, "" if _is_file(entry) else NO_FILE)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Returns True for a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link that cannot be followed
        return False


def describe(left_out: Mapping[str, int]) -> str:
    """Returns what was left out of folders as one line, the most frequent first."""
    counts = collections.Counter(left_out)
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in counts.most_common())
    total = counted(counts.total(), "other file")
    return f"{total} left out of folders: {printable(kinds)}"


def _is_file(entry: os.DirEntry[str]) -> bool:
    """False for pipes, which would be waited for, and for broken links."""
    try:
        return entry.is_file()
    except OSError:
        return False
