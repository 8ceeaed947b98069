"""The directory of a data set, and what may be read there.

A data set may come from anyone. A path in it that leads elsewhere, by `..` or by a
symbolic link, would make any file of this machine a picture or a text of it, and from
there of the model and its report; a pipe would be waited for, and a device read for
ever. So what is read is a regular file of some size below the root, links followed.
Links may lead out where their owner says so: `data.follow_symlinks=True`. The root
itself may be a link.
"""

import dataclasses
import errno
import functools
import io
import os
import posixpath
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool

from vl_ltr_jax.logs.messages import any_case, nfc
from vl_ltr_jax.runtime.errors import UserError

RootLike: TypeAlias = str | os.PathLike[str]

LARGEST_LIST = 2**30  # bytes; that of iNaturalist 2018 has 122 MB
_LONGEST_PATH = 4096  # bytes; Linux opens no longer one
_PART = 2**20  # bytes read at once where a size is not known


class FileError(UserError):
    """A file that is absent, of no regular kind, too large, or outside its root.

    Attributes:
      reason: what is wrong, without the file's name.
    """

    reason = ""


@dataclasses.dataclass(frozen=True)
class Root(os.PathLike[str]):
    """The directory of a data set.

    Attributes:
      path: the directory, or a link to it.
      follow_symlinks: whether links in it may lead out of it.
    """

    path: Path
    follow_symlinks: bool = False

    @classmethod
    def of(cls, path: RootLike) -> "Root":
        """A path as a root whose links stay inside; a root as it is."""
        return path if isinstance(path, Root) else cls(Path(path))

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: RootLike) -> Path:
        return self.path / name

    def way_out(self, name: str) -> str:
        """Where a path leads that leaves the root by `..` or a link; '' if it stays."""
        if self.follow_symlinks:
            return ""
        real = os.path.realpath(os.path.join(self.path, name))
        inside = real == self._real or real.startswith(self._real.rstrip("/") + "/")
        return "" if inside else real

    @functools.cached_property
    def _real(self) -> str:
        return os.path.realpath(self.path)

    def check(self, name: str) -> Path:
        """The path of something of the data set.

        Raises:
          FileError: if it lies outside the root.
        """
        if target := self.way_out(name):
            raise file_error(self / name, leads_out(self, target))
        return self / name

    def read(self, name: str, most: int) -> bytes:
        """The bytes of a file of the data set.

        Raises:
          FileError: if it lies outside, is no regular file, has more than `most` bytes,
            or cannot be read.
        """
        try:
            return read_regular(self.check(name), most)
        except OSError as error:
            raise file_error(self / name, error) from None

    def read_listed(self, name: str, most: int) -> bytes:
        """The bytes of a file whose directory has been looked at by :class:`Listings`.

        It costs no look at the directories above, of which a million images have a few.

        Raises:
          FileError: if it is a link that leads out, no regular file, or has more than
            `most` bytes.
          OSError: if it cannot be read.
        """
        try:
            return read_regular(self / name, most, follow_link=self.follow_symlinks)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
        return read_regular(self.check(name), most)


class _Listing(NamedTuple):
    """The content of a directory.

    Attributes:
      files: names of regular files, links to some included.
      links: those that are links.
      outside: where the directory lies outside the root; '' inside.
      names: all names.
    """

    files: frozenset[str] = frozenset()
    links: frozenset[str] = frozenset()
    outside: str = ""
    names: frozenset[str] = frozenset()


class Listings:
    """What lies where in a root, with one look at each directory."""

    def __init__(self, root: Root):
        self._root = root
        self._known: dict[str, _Listing] = {}
        self._alike: dict[tuple[str, Callable[[str], str]], dict[str, list[str]]] = {}

    def beside(self, path: str) -> frozenset[str]:
        """Names of the files in the directory of a path; none where it is absent."""
        return self._listing(posixpath.dirname(path)).files

    def fault(self, path: str) -> str:
        """What is wrong with something that is there and no file, after `; `; or ''."""
        there = os.path.lexists(self._root / path)
        return "; what lies there is no regular file" if there else ""

    def spelled(self, paths: Sequence[str]) -> list[str]:
        """Returns paths as the disk spells them, where Unicode's form alone differs.

        A path that is no file keeps its spelling, and so does one that two entries of a
        directory would fit.
        """
        spelled = list(paths)
        for index, path in enumerate(paths):
            if posixpath.basename(path) not in self.beside(path):
                spelled[index], *others = self._entries_alike(path, nfc) or [path]
                if others:
                    spelled[index] = path
        return spelled

    def differing_by_case(self, path: str) -> list[str]:
        """Returns entries of the disk whose paths differ by case or Unicode's form."""
        return self._entries_alike(path, any_case)

    def _entries_alike(self, path: str, form: Callable[[str], str]) -> list[str]:
        """Entries whose paths have the same form."""
        directories = [""]
        for part in path.split("/"):
            directories = [
                posixpath.join(directory, name)
                for directory in directories
                for name in self._by_form(directory, form).get(form(part), ())
            ]
        return directories

    def _by_form(
        self, directory: str, form: Callable[[str], str]
    ) -> dict[str, list[str]]:
        """Names of a directory by their form."""
        if (directory, form) not in self._alike:
            names: dict[str, list[str]] = {}
            for name in sorted(self._listing(directory).names):
                names.setdefault(form(name), []).append(name)
            self._alike[directory, form] = names
        return self._alike[directory, form]

    def missing_and_outside(
        self, paths: Sequence[str]
    ) -> tuple[Bool[np.ndarray, "N"], Bool[np.ndarray, "N"]]:
        """Which of N paths are no regular files, and which are files outside the root.

        Args:
          paths: normal ones below the root.
        """
        missing, outside = np.zeros((2, len(paths)), bool)
        for index, path in enumerate(paths):
            directory, _, name = path.rpartition("/")
            listing = self._known.get(directory) or self._listing(directory)
            if name not in listing.files:
                missing[index] = True
            elif listing.outside or name in listing.links:
                outside[index] = bool(self.way_out(path))
        return missing, outside

    def way_out(self, path: str) -> str:
        """Where a file lies outside the root; '' for one inside, or none."""
        directory, name = posixpath.split(path)
        listing = self._listing(directory)
        if name not in listing.files:
            return ""
        if listing.outside:
            return posixpath.join(listing.outside, name)
        return self._root.way_out(path) if name in listing.links else ""

    def _listing(self, directory: str) -> _Listing:
        if directory not in self._known:
            self._known[directory] = self._look(directory)
        return self._known[directory]

    def _look(self, directory: str) -> _Listing:
        if len(directory) > _LONGEST_PATH or directory.split("/")[0] == "..":
            return _Listing()
        try:
            with os.scandir(self._root / directory) as entries:
                everything = list(entries)
        except (OSError, ValueError):  # ValueError: a null byte
            return _Listing()
        files = [entry for entry in everything if _is_file(entry)]
        links = frozenset(entry.name for entry in files if entry.is_symlink())
        return _Listing(
            frozenset(entry.name for entry in files),
            links,
            self._root.way_out(directory),
            frozenset(entry.name for entry in everything),
        )


def read_regular(path: Path, most: int, *, follow_link: bool = True) -> bytes:
    """The bytes of a file, which is not opened unless it is a regular one.

    Args:
      path: of the file.
      most: bytes that it may have.
      follow_link: False fails with `errno.ELOOP` for a link.

    Raises:
      FileError: if it is a directory, pipe, device or socket, or too large.
      OSError: if it cannot be read.
    """
    status = os.stat(path, follow_symlinks=follow_link)
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path))
    _check_regular(path, status, most)
    # Whatever was put in its place meanwhile is neither waited for nor followed.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    descriptor = os.open(path, flags if follow_link else flags | os.O_NOFOLLOW)
    with open(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        _check_regular(path, status, most)
        return _read_all(path, file, status.st_size, most)


def read_any(path: Path, most: int) -> bytes:
    """The bytes of a file that a person names, which may be a pipe.

    Raises:
      FileError: if it has more than `most` bytes.
      OSError: if it cannot be read.
    """
    with open(path, "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        if stat.S_ISREG(status.st_mode):
            _check_regular(path, status, most)
        return _read_all(path, file, status.st_size, most)


def file_error(path: Path, reason: str | OSError) -> FileError:
    """The error for a file that cannot be used."""
    if isinstance(reason, OSError):
        reason = reason.strerror or str(reason)
    error = FileError(f"{path} cannot be read: {reason}")
    error.reason = reason
    return error


def leads_out(root: Root, target: str) -> str:
    """What to say of a path that leaves its root for a target."""
    return (
        f"it leads out of {root}, to {target}; copy the file below that directory, or "
        "set data.follow_symlinks=True if you trust the links of this data set"
    )


def _read_all(path: Path, file: io.FileIO, size: int, most: int) -> bytes:
    """A file's bytes; one that grows, or a pipe, has any number."""
    parts = [file.read(min(size, most)) or b""]
    total = len(parts[0])
    while part := file.read(_PART):
        parts.append(part)
        total += len(part)
        if total > most:
            raise file_error(path, f"it has over {most} bytes")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _check_regular(path: Path, status: os.stat_result, most: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = "directory" if stat.S_ISDIR(status.st_mode) else "pipe, device or socket"
        raise file_error(path, f"it is no regular file but a {kind}")
    if status.st_size > most:
        raise file_error(
            path, f"it has {status.st_size} bytes, over the {most} that are read of it"
        )


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link to itself
        return False


def leaves(path: str) -> bool:
    """Whether a path, in its shortest form, leaves the root."""
    return path.startswith("../") or path == ".."


def is_utf8(path: str) -> bool:
    """Whether the bytes of a name are UTF-8; Python keeps others as half characters."""
    return path.isascii() or path.encode("utf-8", "replace").decode() == path
