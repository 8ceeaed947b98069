"""JAX's cache of compiled programs on disk."""

import math
import os

import jax
from etils import epath

NAME, _VARIABLE = "compiled", "JAX_COMPILATION_CACHE_DIR"


def use(
    directory: str | os.PathLike[str],
    *,
    fallback: str | os.PathLike[str] = "",
    min_seconds: float | None = None,
) -> None:
    """Lets programs lie in a directory, so that the next start compiles nothing.

    Args:
      directory: local or a bucket; nothing keeps no programs. A directory in the
        environment variable JAX_COMPILATION_CACHE_DIR goes first.
      fallback: local directory to use if the first one cannot be written.
      min_seconds: shortest compilation that is kept, JAX's by default; `math.inf`
        only reads.
    """
    if min_seconds is not None:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", min_seconds)
    if _VARIABLE in os.environ or not directory:
        return
    path = epath.Path(directory)
    if fallback and "://" not in os.fspath(path):
        existing = path if path.exists() else path.parent
        if not os.access(existing, os.W_OK | os.X_OK):
            path = epath.Path(fallback)
    if min_seconds != math.inf or path.exists():
        jax.config.update("jax_compilation_cache_dir", os.fspath(path))


def of_run(setting: str, workdir: epath.Path) -> str:
    """Returns the directory that `mesh.compilation_cache` names.

    Args:
      setting: a directory, `workdir` or nothing.
      workdir: of the run.
    """
    return os.fspath(workdir / NAME) if setting == "workdir" else setting
