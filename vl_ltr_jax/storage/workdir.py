"""The directory of a run: its name, and that its files can be written."""

import contextlib
import os
from collections.abc import Iterable

from etils import epath

from vl_ltr_jax.runtime.errors import UserError
from vl_ltr_jax.storage import atomic, paths

LOCK = ".lock"
_ROOM = 2**16  # bytes; a run's first files are of this size


class WorkdirError(UserError):
    """A workdir that cannot be used."""


def path_of(name: str) -> epath.Path:
    """Returns the workdir that a person names.

    Raises:
      WorkdirError: if it is an address of no bucket, or has characters that Orbax takes
        for a pattern.
    """
    given = paths.expand(name)
    if "://" in given:
        with contextlib.suppress(KeyError):  # epath's word for a scheme it lacks
            if "://" in os.fspath(workdir := epath.Path(given)):
                return workdir
        raise WorkdirError(
            f"--workdir={given}: runs can be kept in local directories, named without "
            "a scheme, and in buckets, as in gs://BUCKET/DIR or s3://BUCKET/DIR"
        )
    if given.startswith("~"):
        raise WorkdirError(
            f"--workdir={given}: no home directory of that name; write ./{given} for a "
            "directory here"
        )
    path = os.path.abspath(given)
    found = [character for character in "[]*?" if character in path]
    if not found:
        return epath.Path(given)
    beyond = "" if path == given else f", which is {path},"
    raise WorkdirError(
        f"--workdir={given}{beyond} has {' '.join(found)} in its path: Orbax, which "
        "keeps the checkpoints, reads these as a pattern and would lose them; name a "
        "directory without [ ] * ?"
    )


def check_free(
    workdir: epath.Path, files: Iterable[str], directories: Iterable[str]
) -> None:
    """Refuses a workdir in which something else has the name of a file of the run.

    Args:
      workdir: of the run.
      files: names below it that the run writes.
      directories: names below it that are directories, where they are there.

    Raises:
      WorkdirError: naming it.
    """
    kinds = {
        **{workdir / name: ("file", os.path.isfile) for name in (LOCK, *files)},
        **{workdir / name: ("directory", os.path.isdir) for name in directories},
    }
    for path, (kind, is_one) in kinds.items():
        if os.path.exists(path) and not is_one(path):  # buckets have no kinds
            raise WorkdirError(f"{path} is in the way of a {kind}; move it elsewhere")


def check_writable(workdir: epath.Path) -> None:
    """Makes the workdir and tries to write a file in it.

    Raises:
      WorkdirError: if that fails.
    """
    # Processes may probe at once; what a killed one has left, the next takes away.
    probe = workdir / ".writable"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with atomic.write(probe, own_partial=True) as file:
            file.write(bytes(_ROOM))
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise WorkdirError(
            f"--workdir={workdir} cannot be written: {error.strerror or error}; name a "
            "directory you may write to, on a disk with room"
        ) from error
