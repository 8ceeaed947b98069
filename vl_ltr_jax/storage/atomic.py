"""Files and directories that appear under their name whole, or not at all.

Where several processes may write at once, each has a partial file of its own and holds
a lock on it, which is the operating system's and dies with the process: so the next
writer knows what a kill has left, and takes it away. Buckets have no locks.
"""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from etils import epath

from vl_ltr_jax.runtime.errors import UserError

SOUND = 0x2144DF1C  # the CRC-32 of whatever ends with its own


class DestinationError(UserError):
    """A directory that is in use, or that cannot be written."""


@contextlib.contextmanager
def write(
    path: str | os.PathLike[str], *, shared: bool = False, own_partial: bool = False
) -> Iterator[IO[Any]]:
    """Opens a file for bytes that has its name once it is whole and on the disk.

    A reader sees the old file or the new one, after a kill or a power loss too. What a
    kill leaves has the name with `.partial` behind it, until the next writer comes.

    Args:
      path: local, or in a bucket.
      shared: several processes may write the same content at once. Each has a partial
        file of its own, and a file that is there stays: a rename would take it, over
        NFS, from hosts that have mapped it.
      own_partial: several processes may write at once, each its own content. The last
        to end replaces the others' files.

    Raises:
      OSError: (or a bucket's own errors) if it cannot be written; nothing is left.
    """
    target = epath.Path(path)
    local = "://" not in os.fspath(target)
    with contextlib.ExitStack() as held:
        opened: IO[Any]
        if local and (shared or own_partial):
            partial, number = held.enter_context(
                _own(Path(target).parent, f"{target.name}.", ".partial")
            )
            opened = os.fdopen(number, "wb", closefd=False)
        else:
            mark = f"{uuid.uuid4().hex}." if shared or own_partial else ""
            partial = target.with_name(f"{target.name}.{mark}partial")
            opened = partial.open("wb")
        try:
            with opened as file:
                yield file
                if local:
                    file.flush()
                    os.fsync(file.fileno())
            if not (shared and local and _linked(partial, target)):
                partial.replace(target)
        except BaseException:
            _remove(partial)
            raise


@contextlib.contextmanager
def write_directory(destination: Path) -> Iterator[Path]:
    """Makes a directory that has its name once it is filled.

    Args:
      destination: a name that is free, or of an empty directory.

    Yields:
      Where to fill it; `.NAME-...` beside the destination.

    Raises:
      OSError: if it cannot be made; nothing is left.
    """
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
    before = f".{destination.name}-"
    with _own(destination.parent, before, directory=True) as (partial, _):
        try:
            yield partial
            partial.replace(destination)
        except BaseException:
            _remove(partial)
            raise


@contextlib.contextmanager
def _own(
    parent: Path, before: str, after: str = "", *, directory: bool = False
) -> Iterator[tuple[Path, int]]:
    """Makes a locked file or directory that no other process has; gives its number.

    Those that dead processes have left go first.
    """
    name = re.compile(re.escape(before) + "[0-9a-f]{32}" + re.escape(after))
    with contextlib.suppress(OSError):  # a directory that cannot be listed
        for left in filter(name.fullmatch, os.listdir(parent)):
            _remove_dead(parent / left)
    while True:
        path = parent / f"{before}{uuid.uuid4().hex}{after}"
        if directory:
            path.mkdir()
        number = _open(path, 0 if directory else os.O_CREAT | os.O_EXCL)
        try:
            _lock(number, fcntl.LOCK_EX)
            if path.exists():  # nobody has found it unlocked, and taken it for dead
                yield path, number
                return
        finally:
            os.close(number)


def _remove_dead(path: Path) -> None:
    with contextlib.suppress(OSError):
        number = _open(path)
        try:
            if _lock(number, fcntl.LOCK_EX | fcntl.LOCK_NB):
                _remove(path)
        finally:
            os.close(number)


def _open(path: Path, flags: int = 0) -> int:
    # NFS locks what may be written, which no directory is.
    mode = os.O_RDONLY if path.is_dir() else os.O_RDWR
    return os.open(path, mode | flags, 0o666)


def _lock(number: int, operation: int) -> bool:
    """Whether there is a lock now: another process has it, or there are none here."""
    try:
        fcntl.flock(number, operation)
    except OSError:
        return False
    return True


def crc32(path: str | os.PathLike[str]) -> int:
    """The checksum of a file, read in parts.

    Raises:
      OSError: if it cannot be read.
    """
    found = 0
    with epath.Path(path).open("rb") as file:
        while part := file.read(2**20):
            found = zlib.crc32(part, found)
    return found


def check_regular(directory: Path, names: Iterable[str]) -> None:
    """Looks at local files before any is opened; one that is absent passes.

    Raises:
      ValueError: if one is a pipe, which would be waited for, a device, which may be
        read for ever, or a directory.
    """
    for name in names:
        path = directory / name
        if path.exists() and not path.is_file():
            raise ValueError(f"{name} is no file but a pipe, device or directory")


def _remove(path: Path | epath.Path) -> None:
    with contextlib.suppress(Exception):
        if path.is_dir():
            shutil.rmtree(os.fspath(path), ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _linked(partial: Path | epath.Path, path: epath.Path) -> bool:
    """Gives a file its name unless that is taken; False: no hard links here."""
    try:
        os.link(partial, path)
    except FileExistsError:
        pass
    except OSError:
        return False
    partial.unlink()
    return True


def check_free(destination: Path) -> None:
    """Looks whether a directory can be made here.

    Raises:
        DestinationError: Something lies there already.
    """
    dangling = destination.is_symlink() and not destination.exists()
    filled = destination.is_dir() and any(destination.iterdir())
    if dangling or filled or destination.is_file():
        raise DestinationError(
            f"{destination} is in use; nothing is overwritten, name another directory"
        )


def write_whole(destination: Path, write: Callable[[Path], None]) -> Path:
    """Lets `write` fill a directory beside the destination, then moves it there.

    Raises:
        DestinationError: It is in use, or no directory can be made there.
    """
    check_free(destination)
    with contextlib.ExitStack() as whole:
        try:
            partial = whole.enter_context(write_directory(destination))
        except OSError as error:
            raise DestinationError(
                f"{destination} cannot be written: {error.strerror or error}; name a "
                "directory where you may write"
            ) from error
        write(partial)
        for path in partial.iterdir():  # safetensors are for their owner alone
            path.chmod(partial.stat().st_mode & 0o666)
    return destination
