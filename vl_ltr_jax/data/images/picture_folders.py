"""Pictures of a folder, listed alike for training, `data.check` and `predict`.

Not in the paper. Files with hidden names (`._a.jpg` of a Mac) and of systems
(`Thumbs.db`) are no pictures. Such folders (`.ipynb_checkpoints`) are no classes.
Everything that is left out is counted by reason.
"""

import collections
import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from vl_ltr_jax.data.root import is_file, is_folder
from vl_ltr_jax.logs.messages import counted, printable

# As Pillow lists them for `decode.FORMATS`.
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif")
    + (".tif", ".tiff", ".bmp", ".avif", ".avifs")
    + (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c")
)
HIDDEN, SYSTEM = "hidden", "of the system"
NO_FILE = "no file"
_SYSTEM_NAMES = frozenset(
    ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir")
    + ("$recycle.bin", "system volume information")
)
LeftOut = collections.Counter[str]


class PictureFile(NamedTuple):
    """A picture file, or a path that cannot be read.

    Attributes:
      error: the fault; empty for a file.
    """

    path: str
    error: str = ""


def reason_for_name(name: str) -> str:
    """Returns why a file or folder of that name is passed over, or ''."""
    if name.startswith("."):
        return HIDDEN
    return SYSTEM if name.lower() in _SYSTEM_NAMES else ""


def reason_to_leave_out(name: str) -> str:
    """Returns why a file of that name is no picture, or ''."""
    suffix = os.path.splitext(name)[1].lower()
    other = "" if suffix in SUFFIXES else suffix or "no suffix"
    return reason_for_name(name) or other


def walk(folder: str, left_out: LeftOut) -> Iterator[PictureFile]:
    """Yields the pictures of a folder at any depth, in the order of their names.

    Links are followed. A folder that several links lead to is visited once.

    Args:
      folder: path to start at.
      left_out: counts the other files by reason.

    Yields:
      Pictures, and folders that cannot be read.
    """
    visited: set[tuple[int, int]] = set()

    def enter(path: str) -> Iterator[PictureFile]:
        try:
            status = os.stat(path)
            if (identity := (status.st_dev, status.st_ino)) in visited:
                return
            visited.add(identity)
            with os.scandir(path) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except OSError as error:
            yield PictureFile(path, error.strerror or str(error))
            return
        for entry in entries:
            if reason := reason_for_name(entry.name):
                left_out[reason] += 1
            elif is_folder(entry):
                yield from enter(entry.path)
            elif reason := reason_to_leave_out(entry.name):
                left_out[reason] += 1
            else:
                yield PictureFile(entry.path, "" if is_file(entry) else NO_FILE)

    return enter(folder)


def describe(left_out: Mapping[str, int]) -> str:
    """Returns the counts of other files as one line, the most frequent first."""
    counts = collections.Counter(left_out)
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in counts.most_common())
    total = counted(counts.total(), "other file")
    return f"{total} left out of folders: {printable(kinds)}"
