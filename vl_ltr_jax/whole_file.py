"""Files that appear under their name whole, or not at all."""

import contextlib
import os
import uuid
import zlib
from collections.abc import Iterator
from typing import IO, Any

from etils import epath


@contextlib.contextmanager
def write(
    path: str | os.PathLike[str], *, shared: bool = False, own_partial: bool = False
) -> Iterator[IO[Any]]:
    """Opens a file for bytes that has its name once it is whole and on the disk.

    A reader sees the old file or the new one, after a kill or a power loss too. What a
    kill leaves has the name with `.partial` behind it.

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
    mark = f"{uuid.uuid4().hex}." if shared or own_partial else ""
    partial = target.with_name(f"{target.name}.{mark}partial")
    try:
        with partial.open("wb") as file:
            yield file
            if local:
                file.flush()
                os.fsync(file.fileno())
        if not (shared and local and _linked(partial, target)):
            partial.replace(target)
    except BaseException:
        with contextlib.suppress(Exception):
            partial.unlink(missing_ok=True)
        raise


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


def _linked(partial: epath.Path, path: epath.Path) -> bool:
    """Gives a file its name unless that is taken; False: no hard links here."""
    try:
        os.link(partial, path)
    except FileExistsError:
        pass
    except OSError:
        return False
    partial.unlink()
    return True
