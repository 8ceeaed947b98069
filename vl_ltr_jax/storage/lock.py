"""One user at a time of a workdir: a file lock, or a lease in a bucket."""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator

import jax
from etils import epath

from vl_ltr_jax.logs import console
from vl_ltr_jax.storage.workdir import LOCK, WorkdirError

_OWNER = ".owner"
BEAT_SECONDS = 10.0


class InUseError(WorkdirError):
    """Another run is at work in the workdir; it may have ended at the next start."""

    exit_code = 1


@contextlib.contextmanager
def sole_user(workdir: epath.Path) -> Iterator[None]:
    """Keeps other runs out of the workdir, on process 0.

    A local lock is the operating system's and dies with the process. Buckets, and file
    systems without locks, have a file that is written anew every few seconds: one that
    has not changed for a while is of a run that was killed.

    Raises:
      InUseError: if another run is at work there.
      WorkdirError: if that cannot be known.
    """
    with contextlib.ExitStack() as stack:
        if jax.process_index() == 0:
            local = "://" not in os.fspath(workdir)
            if local and stack.enter_context(_locked(workdir)):
                # Of a time without locks: the other processes would wait for it.
                (workdir / _OWNER).unlink(missing_ok=True)
            else:
                stack.enter_context(leased(workdir))
        elif before := _content(path := workdir / _OWNER):
            # As process 0 does: collectives of CPUs wait half a minute and no more.
            with contextlib.suppress(InUseError):  # which that one tells
                _wait_unchanged(workdir, path, before)
        yield


@contextlib.contextmanager
def _locked(workdir: epath.Path) -> Iterator[bool]:
    """Holds a lock; False on a file system without them."""
    path = workdir / LOCK
    try:
        number = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise WorkdirError(
            f"{path}, by which a run keeps others away, cannot be opened: "
            f"{error.strerror}; make room, or move away what lies there"
        ) from error
    with os.fdopen(number, "rb+", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _in_use(workdir, _content(path).strip()) from None
        except OSError:
            yield False
            return
        with contextlib.suppress(OSError):  # a full disk: it is locked all the same
            file.truncate(0)
            file.write(_this_process().encode())
        yield True


@contextlib.contextmanager
def leased(workdir: epath.Path) -> Iterator[None]:
    """Holds a file in the workdir that shows that this process lives.

    Raises:
      InUseError: if another process shows that it does.
    """
    path, mark = workdir / _OWNER, uuid.uuid4().hex
    before = _content(path)
    if before:
        console.say(f"{path} is of another run; looking whether that one lives")
        _wait_unchanged(workdir, path, before)

    def write(beat: int) -> None:
        path.write_text(json.dumps({"of": _this_process(), "mark": mark, "beat": beat}))

    write(0)
    time.sleep(BEAT_SECONDS / 4)  # another may have started at the same moment
    if mark not in _content(path):
        raise _in_use(workdir, _content(path))
    ended = threading.Event()

    def live() -> None:
        beat = 0
        while not ended.wait(BEAT_SECONDS):
            found = _content(path)
            if found and mark not in found:
                # Whoever took this process for dead writes there now.
                console.error(f"{workdir} was taken over by another run: {found}")
                os._exit(1)
            else:
                beat += 1
                with contextlib.suppress(Exception):  # a bucket's own errors
                    write(beat)

    thread = threading.Thread(target=live, name="workdir", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(Exception):
            if mark in _content(path):
                path.unlink()


def _wait_unchanged(workdir: epath.Path, path: epath.Path, before: str) -> None:
    """Returns when a file has stayed as it is for three beats."""
    end = time.monotonic() + 3 * BEAT_SECONDS
    while time.monotonic() < end:
        time.sleep(BEAT_SECONDS / 4)
        if (now := _content(path)) != before:
            if not now:  # that run has ended
                return
            raise _in_use(workdir, now)


def _content(path: epath.Path) -> str:
    try:
        return path.read_text()
    except Exception:  # absent, or a bucket's own errors
        return ""


def _this_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _in_use(workdir: epath.Path, by: str) -> InUseError:
    return InUseError(
        f"--workdir={workdir} is in use by another run ({by}); wait for it, stop it, "
        "or name another directory"
    )
