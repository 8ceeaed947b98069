"""Files and directories that appear under their name complete, or not at all."""

import contextlib
import os
import shutil
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from etils import epath

from vl_ltr_jax.runtime.errors import UserError

PARTIAL = ".partial"  # ends names of unfinished files; a SIGKILL leaves them
SOUND = 0x2144DF1C  # the CRC-32 of any content that ends with its own CRC-32


class DestinationError(UserError):
    """A directory that is in use, or that cannot be written."""


@contextlib.contextmanager
def write(path: str | os.PathLike[str], *, shared: bool = False) -> Iterator[IO[Any]]:
    """Opens a file for bytes that gets its name once it is complete and on the disk.

    A reader sees the old file or the new one, after a power loss too. Each writer has
    a partial file of its own; the last to end replaces the file of the others.

    Args:
      path: local, or in a bucket.
      shared: keeps a file that another process has completed meanwhile. Over NFS a
        rename would take it from hosts that have mapped it.

    Raises:
      OSError: it cannot be written (buckets have errors of their own).
    """
    target = epath.Path(path)
    partial = target.with_name(f"{target.name}.{uuid.uuid4().hex}{PARTIAL}")
    local = "://" not in os.fspath(target)
    try:
        with partial.open("wb") as file:
            yield file
            if local:
                file.flush()
                os.fsync(file.fileno())
        if shared and local:
            with contextlib.suppress(OSError):  # the name is taken, or no hard links
                os.link(partial, target)
        if shared and target.exists():
            partial.unlink()
        else:
            partial.replace(target)
    except BaseException:
        with contextlib.suppress(Exception):
            partial.unlink(missing_ok=True)
        raise


def crc32(path: str | os.PathLike[str]) -> int:
    """Returns the checksum of a file, which is read in parts.

    Raises:
      OSError: it cannot be read.
    """
    checksum = 0
    with epath.Path(path).open("rb") as file:
        while part := file.read(2**20):
            checksum = zlib.crc32(part, checksum)
    return checksum


def check_free(destination: Path) -> None:
    """Raises DestinationError if something lies at the place of a new directory."""
    dangling = destination.is_symlink() and not destination.exists()
    filled = destination.is_dir() and any(destination.iterdir())
    if dangling or filled or destination.is_file():
        raise DestinationError(
            f"{destination} is in use; nothing is overwritten, name another directory"
        )


def write_directory(destination: Path, fill: Callable[[Path], None]) -> Path:
    """Makes a directory that gets its name once `fill` has filled it.

    Args:
      destination: a free name, or that of an empty directory.
      fill: receives a partial directory in the same parent.

    Raises:
      DestinationError: it is in use, or no directory can be made there.
    """
    check_free(destination)
    partial = destination.with_name(f".{destination.name}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise DestinationError(
            f"{destination} cannot be written: {error.strerror or error}; name a "
            "directory where you may write"
        ) from error
    try:
        fill(partial)
        for path in partial.iterdir():  # safetensors are for their owner alone
            path.chmod(partial.stat().st_mode & 0o666)
        partial.replace(destination)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return destination
