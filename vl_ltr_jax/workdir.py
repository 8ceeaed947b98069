"""The directory of a run: one that can be written, and that one run uses at a time."""

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

from vl_ltr_jax import terminal, whole_file

BEAT_SECONDS = 10.0


class WorkdirError(ValueError):
    """A workdir that cannot be used."""


@contextlib.contextmanager
def sole_user(workdir: epath.Path) -> Iterator[None]:
    """Keeps other runs out of the workdir, on process 0.

    A local lock is the operating system's and dies with the process. Buckets, and file
    systems without locks, have a file that is written anew every few seconds: one that
    has not changed for a while is of a run that was killed.

    Raises:
      WorkdirError: if another run is at work there.
    """
    with contextlib.ExitStack() as stack:
        if jax.process_index() == 0:
            local = "://" not in os.fspath(workdir)
            if not (local and stack.enter_context(_locked(workdir))):
                stack.enter_context(leased(workdir))
        yield


@contextlib.contextmanager
def _locked(workdir: epath.Path) -> Iterator[bool]:
    """Holds a lock; False on a file system without them."""
    with open(workdir / ".lock", "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise _in_use(workdir, file.read().strip()) from None
        except OSError:
            yield False
            return
        file.truncate(0)
        file.write(_this_process())
        file.flush()
        yield True


@contextlib.contextmanager
def leased(workdir: epath.Path) -> Iterator[None]:
    """Holds a file in the workdir that shows that this process lives.

    Raises:
      WorkdirError: if another process shows that it does.
    """
    path, mark = workdir / ".owner", uuid.uuid4().hex
    before = _content(path)
    if before:
        terminal.say(f"{path} is of another run; looking whether that one lives")
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
                terminal.error(f"{workdir} was taken over by another run: {found}")
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


def _in_use(workdir: epath.Path, by: str) -> WorkdirError:
    return WorkdirError(
        f"--workdir={workdir} is in use by another run ({by}); wait for it, stop it, "
        "or name another directory"
    )


def check_path(workdir: epath.Path) -> None:
    """Refuses a local workdir whose path Orbax takes for a pattern.

    Raises:
      WorkdirError: if it has characters of patterns.
    """
    if "://" in os.fspath(workdir):
        return
    path = os.path.abspath(workdir)
    found = [character for character in "[]*?" if character in path]
    if not found:
        return
    beyond = "" if path == os.fspath(workdir) else f", which is {path},"
    raise WorkdirError(
        f"--workdir={workdir}{beyond} has {' '.join(found)} in its path: Orbax, which "
        "keeps the checkpoints, reads these as a pattern and would lose them; name a "
        "directory without [ ] * ?"
    )


def check_writable(workdir: epath.Path) -> None:
    """Makes the workdir and tries to write a file in it.

    Raises:
      WorkdirError: if that fails.
    """
    # Processes may probe at once; what a killed one has left, the next takes away.
    probe = workdir / ".writable"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with whole_file.write(probe, own_partial=True):
            pass
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise WorkdirError(
            f"--workdir={workdir} cannot be written: {error.strerror or error}; name a "
            "directory you may write to"
        ) from error
