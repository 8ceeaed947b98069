"""Origins of a result: package versions, source revision, machine."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "clu",
    "numpy",
    "Pillow",
    "transformers",
)


def versions() -> dict[str, str]:
    """Returns versions of this package, its source revision, Python and libraries."""
    import vl_ltr_jax

    result = {
        "vl_ltr_jax": vl_ltr_jax.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for package in PACKAGES:
        try:
            result[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            result[package] = "not installed"
    return result


def _commit() -> str:
    source = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(source), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()

    try:
        # An installed copy may lie inside somebody else's repository.
        if not git("ls-files", "--error-unmatch", Path(__file__).name):
            return "unknown"
        dirty = "+changes" if git("status", "--porcelain", "--", str(source)) else ""
        return git("rev-parse", "HEAD") + dirty
    except (OSError, subprocess.SubprocessError):
        return "unknown"
