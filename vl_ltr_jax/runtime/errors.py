"""The base of errors that a user can mend, and faults of the machine."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator


class UserError(ValueError):
    """Flags, files or an environment that the user can mend; the message says how.

    Commands print the message and exit with the code. Any other error is a bug and
    keeps its traceback.

    Attributes:
      exit_code: 2 tells launchers to stop, 1 to try again.
    """

    exit_code = 2


class SystemFault(UserError):
    """A lack of memory, threads, room or rights, or a path that is absent."""


_PERMISSIONS = "Change its permissions, or name another place"
_ROOM = "Make room there; what was finished before stays"
_FILES = "Raise `ulimit -n`"
_MEMORY = "Free memory or raise `ulimit -v`, or take a smaller batch"
_THREADS = "Raise `ulimit -u`, or `ulimit -v`: a thread needs memory"
_DEVICE_MEMORY = "Take a smaller batch, mesh.accumulation_steps or model.remat"
# Words of C++, Linux and zstd, through TensorStore.
_NO_MEMORY = re.compile("bad_alloc|[Cc]annot allocate memory|not enough memory")
# Words of safetensors, which is written in Rust.
_RUST_OS_ERROR = re.compile(r"\(os error (\d+)\)")
# Lacks of the machine, which say nothing about the file that was being read.
_LACKS = {
    errno.EACCES: _PERMISSIONS,
    errno.EPERM: _PERMISSIONS,
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.ENOMEM: _MEMORY,
}
_MENDS = {
    **_LACKS,
    errno.EROFS: _PERMISSIONS,
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.ENOENT: "Check the path",
    errno.ENOTDIR: "Check the path",
    errno.EISDIR: "Name a file",
    errno.EEXIST: "Move away what lies there, or name another place",
    errno.ENAMETOOLONG: "Take a shorter name",
}


def lack(error: BaseException) -> SystemFault | None:
    """Returns a fault of the machine, or None if the error is another.

    To be asked before a file is called damaged.
    """
    if isinstance(error, SystemFault):
        return error
    if isinstance(error, OSError):
        return _of_system(error, _LACKS)
    text = str(error)
    if isinstance(error, MemoryError) or _NO_MEMORY.search(text):
        return SystemFault(f"not enough memory ({text or 'MemoryError'}). {_MEMORY}")
    if isinstance(error, RuntimeError) and "can't start new thread" in text:
        return SystemFault(f"{text}. {_THREADS}")
    if text.startswith("RESOURCE_EXHAUSTED"):  # XLA's, of a device
        first_line = text.partition("\n")[0]
        return SystemFault(f"the devices lack memory ({first_line}). {_DEVICE_MEMORY}")
    if "[os_error" in text:  # TensorStore's, of the operating system
        for number, mend in _LACKS.items():
            if os.strerror(number) in text:
                return SystemFault(f"{os.strerror(number)}. {mend}: {text}")
    return None


def system_fault(error: BaseException) -> SystemFault | None:
    """Returns a fault of the machine or of a path, or None if the error is another."""
    if isinstance(error, OSError):
        return _of_system(error, _MENDS)
    if match := _RUST_OS_ERROR.search(str(error)):
        number = int(match[1])
        if number in _MENDS:
            return SystemFault(f"{os.strerror(number)}. {_MENDS[number]} ({error})")
    return lack(error)


@contextlib.contextmanager
def system_faults() -> Iterator[None]:
    """Turns errors that :func:`system_fault` knows into it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if fault := system_fault(error):
            raise fault from error
        raise


def _of_system(error: OSError, mends: dict[int, str]) -> SystemFault | None:
    if error.errno not in mends:
        return None
    path = error.filename2 or error.filename
    where = f"{os.fsdecode(path)}: " if isinstance(path, str | bytes) else ""
    return SystemFault(f"{where}{error.strerror}. {mends[error.errno]}")
