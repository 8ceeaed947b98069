"""Compiled programs on disk, which JAX writes in place: a kill may tear one.

JAX warns of a torn one at every start, compiles, and leaves it as it is.
"""

import os
import zlib
from pathlib import Path

_NEWEST = 8  # are looked at: the start after a kill comes before others are written
_ZLIB = b"\x78"  # JAX has other compressors, where they are installed


def clear_torn(directory: str | os.PathLike[str]) -> None:
    """Deletes programs of JAX's compilation cache that end too early.

    Args:
      directory: local; a bucket shows nothing before it is whole.
    """
    if "://" in os.fspath(directory):
        return
    try:
        newest = sorted(Path(directory).glob("*-cache"), key=os.path.getmtime)
        for path in newest[-_NEWEST:]:
            if not _is_whole(path.read_bytes()):
                path.unlink(missing_ok=True)
    except OSError:  # another process has cleared it, or only may
        return


def _is_whole(content: bytes) -> bool:
    if not content or not content.startswith(_ZLIB):
        return bool(content)
    stream = zlib.decompressobj()
    try:
        stream.decompress(content)
    except zlib.error:
        return False
    return stream.eof
