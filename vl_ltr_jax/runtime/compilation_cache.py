"""JAX's cache of compiled programs on disk: where each command writes or reads it.

JAX writes a program in place, so a kill may tear one. JAX warns of a torn one at every
start, compiles, and leaves it as it is. A directory that JAX_COMPILATION_CACHE_DIR
names goes before every other.
"""

import math
import os
import zlib
from pathlib import Path

import jax
from etils import epath

_NAME, _VARIABLE = "compiled", "JAX_COMPILATION_CACHE_DIR"
_NEWEST = 8  # are looked at: the start after a kill comes before others are written
_ZLIB = b"\x78"  # JAX has other compressors, where they are installed


def write_to(setting: str, workdir: epath.Path) -> None:
    """Lets a run keep its programs, so that a restart compiles nothing.

    Args:
      setting: `mesh.compilation_cache`: a directory, `workdir` or nothing.
      workdir: of the run.
    """
    named = os.fspath(workdir / _NAME) if setting == "workdir" else setting
    if named and _VARIABLE not in os.environ:
        clear_torn(named)
        jax.config.update("jax_compilation_cache_dir", named)


def write_beside(directory: epath.Path, fallback: Path) -> None:
    """Lets programs of a model, the small ones too, lie beside it.

    Args:
      directory: of the model.
      fallback: directory for models in directories that cannot be written.
    """
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if _VARIABLE in os.environ:
        return
    place = directory / _NAME
    if "://" not in os.fspath(place):
        written = place if place.exists() else directory
        if not os.access(written, os.W_OK | os.X_OK):
            place = epath.Path(fallback) / _NAME
    clear_torn(place)
    jax.config.update("jax_compilation_cache_dir", os.fspath(place))


def read_from(workdir: epath.Path) -> None:
    """Takes a run's own programs where they lie, and adds none.

    Args:
      workdir: of the run.
    """
    jax.config.update("jax_persistent_cache_min_compile_time_secs", math.inf)
    place = workdir / _NAME
    if _VARIABLE not in os.environ and place.exists():
        jax.config.update("jax_compilation_cache_dir", os.fspath(place))


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
