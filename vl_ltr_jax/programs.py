"""Compiled programs that JAX keeps on disk: those that are damaged are cleared."""

import os
from pathlib import Path

from jax._src import compilation_cache

from vl_ltr_jax import terminal


def clear_damaged(directory: str | os.PathLike[str]) -> None:
    """Deletes programs that cannot be unpacked, and says which.

    JAX writes them in place, so that one is cut short where a process is killed; at
    each start it would warn of it, without its name, and never write it again.

    Args:
      directory: of compiled programs; nothing is done where it is a bucket.
    """
    if "://" in os.fspath(directory):
        return
    for path in Path(directory).glob("*-cache"):
        try:
            content = path.read_bytes()
        except OSError:  # another process may have taken it away
            continue
        try:
            compilation_cache.decompress_executable(content)
        except Exception as error:  # each way of packing has errors of its own
            terminal.warn(f"{path}: damaged ({error}), deleted; it is compiled anew")
            path.unlink(missing_ok=True)
