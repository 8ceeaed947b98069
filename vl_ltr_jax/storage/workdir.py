"""The directory of a run: one that can be written, and that one run uses at a time."""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterable, Iterator

import jax
from etils import epath

from vl_ltr_jax.logs import console
from vl_ltr_jax.runtime.errors import UserError
from vl_ltr_jax.storage import atomic, paths

BEAT_SECONDS = 10.0
LOCK, _OWNER = ".lock", ".owner"
_ROOM = 2**16  # bytes; a run's first files are of this size


class WorkdirError(UserError):
    """A workdir that cannot be used."""


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
