"""Checks of a run's directory: its name, and that its files can be written."""

import contextlib
import os
from collections.abc import Iterable

from etils import epath

from vl_ltr_jax.runtime.errors import UserError
from vl_ltr_jax.storage import atomic, paths

LOCK = ".lock"
_PROBE_BYTES = 2**16  # a run's first files are of this size


class WorkdirError(UserError):
    """A workdir that cannot be used."""


def path_of(name: str) -> epath.Path:
    """Returns the workdir that a person names.

    Raises:
      WorkdirError: it is an address of no bucket, or Orbax would take characters of
        it for a pattern.
    """
    typed = paths.expand(name)
    if "://" in typed:
        with contextlib.suppress(KeyError):  # epath's error for an unknown scheme
            if "://" in os.fspath(workdir := epath.Path(typed)):
                return workdir
        raise WorkdirError(
            f"--workdir={typed}: runs can be kept in local directories, named without "
            "a scheme, and in buckets, as in gs://BUCKET/DIR or s3://BUCKET/DIR"
        )
    path = os.path.abspath(typed)
    if patterns := [character for character in "[]*?" if character in path]:
        raise WorkdirError(
            f"--workdir={path} has {' '.join(patterns)} in its path, which Orbax would "
            "take for a pattern of checkpoints. Name a directory without [ ] * ?"
        )
    return epath.Path(typed)


def check_free(
    workdir: epath.Path, files: Iterable[str], directories: Iterable[str]
) -> None:
    """Refuses a workdir in which a directory has the name of a file, or vice versa.

    Args:
      workdir: of the run.
      files: names below it that the run writes.
      directories: names below it that are directories if they exist.

    Raises:
      WorkdirError: names the path.
    """
    kinds = {
        **{workdir / name: ("file", os.path.isfile) for name in (LOCK, *files)},
        **{workdir / name: ("directory", os.path.isdir) for name in directories},
    }
    for path, (kind, is_kind) in kinds.items():
        if os.path.exists(path) and not is_kind(path):  # buckets have no kinds
            raise WorkdirError(f"{path} is in the way of a {kind}; move it elsewhere")


def check_writable(workdir: epath.Path) -> None:
    """Makes the workdir and writes a file in it.

    Raises:
      WorkdirError: that fails.
    """
    probe = workdir / ".writable"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with atomic.write(probe) as file:
            file.write(bytes(_PROBE_BYTES))
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise WorkdirError(
            f"--workdir={workdir} cannot be written: {error.strerror or error}; name a "
            "directory you may write to, on a disk with room"
        ) from error
