"""One user at a time of a workdir."""

import contextlib
import datetime
import fcntl
import os
import socket
from collections.abc import Iterator

import jax
from etils import epath

from vl_ltr_jax.storage import atomic
from vl_ltr_jax.storage.workdir import LOCK, WorkdirError

# Places of partial files: the workdir, its stages, and their cached features.
_PLACES = ("", "*/", "*/views/", "*/non_finite/")


class InUseError(WorkdirError):
    """Another run is at work in the workdir; it may have ended at the next start."""

    exit_code = 1


@contextlib.contextmanager
def sole_user(workdir: epath.Path) -> Iterator[None]:
    """Keeps other runs out of the workdir, and deletes partial files, in process 0.

    The file `.lock` names host, process and time of the run. On a local disk the
    system locks it, until the process ends. In a bucket, and on file systems without
    locks, its presence refuses another run; a killed run leaves it.

    Raises:
      InUseError: the system says that another run is at work there.
      WorkdirError: a run without a lock is, or was killed.
    """
    if jax.process_index() != 0:
        yield
        return
    path = workdir / LOCK
    with contextlib.ExitStack() as stack:
        if not stack.enter_context(_locked(path)):
            if owner := _content(path):
                raise WorkdirError(
                    f"--workdir={workdir} is in use by another run ({owner}). If that "
                    "one has ended, add --take_over"
                )
            stack.callback(path.unlink, missing_ok=True)
        started = datetime.datetime.now().isoformat(" ", "seconds")
        owner = f"process {os.getpid()} on {socket.gethostname()} since {started}"
        with contextlib.suppress(OSError):  # a full disk: it is locked all the same
            path.write_text(owner)
        for place in _PLACES:
            for leftover in workdir.glob(f"{place}*{atomic.PARTIAL}"):
                leftover.unlink(missing_ok=True)
        yield


def take_over(workdir: epath.Path) -> None:
    """Makes a workdir free that runs without a system's lock have left, in process 0.

    A lock that the system keeps stays, with the name of its owner. Workdirs of a
    comparison become free too.
    """
    if jax.process_index() == 0:
        for path in (workdir / LOCK, *workdir.glob(f"*/seed_*/{LOCK}")):
            if path.exists():
                with contextlib.suppress(InUseError), _locked(path):
                    path.write_text("")


@contextlib.contextmanager
def _locked(path: epath.Path) -> Iterator[bool]:
    """Holds a system's lock; yields False in a bucket, or on a disk without locks."""
    if "://" in os.fspath(path):
        yield False
        return
    try:
        number = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise WorkdirError(
            f"{path}, by which a run keeps others away, cannot be opened: "
            f"{error.strerror}; make room, or move away what lies there"
        ) from error
    with contextlib.closing(os.fdopen(number)) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUseError(
                f"--workdir={path.parent} is in use by another run ({_content(path)}); "
                "wait for it, stop it, or name another directory"
            ) from None
        except OSError:
            yield False
            return
        yield True


def _content(path: epath.Path) -> str:
    try:
        return path.read_text().strip()
    except Exception:  # absent, or a bucket's own errors
        return ""
