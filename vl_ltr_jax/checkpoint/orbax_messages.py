"""What Orbax and TensorStore say: shortened, and what of it is no news left out.

When a part of a save or a restore fails, its other parts go on, and fail later where
nobody asks for them any more: in asyncio's log, in callbacks, and when they are
collected. We tell of the failure ourselves, once.
"""

import functools
import logging
import re
import sys
import traceback
import warnings
from collections.abc import Callable
from types import CoroutineType, TracebackType

from absl import logging as absl_logging

_NO_NEWS = (
    "CheckpointManagerOptions.read_only=True",  # what follows from our own options
    "Given directory is read only",
    "Metadata file does not exist",  # of a save that a kill has ended
    "Attempted to create temporary directory",  # that a failed save has left
)
_LEFT_ALONE = re.compile(
    r"(\w+ exception was never retrieved|Task was destroyed but it is pending!)\n"
)
_NEVER_AWAITED = (
    r"coroutine '([\w.<>]*\.)?_?(read_(array_index_and_device_put|and_create_array|"
    r"shard)|(async_)?(de)?serialize\w*)' was never awaited"
)
# As TensorStore's errors begin.
_STATUS = re.compile(
    "(CANCELLED|UNKNOWN|INVALID_ARGUMENT|DEADLINE_EXCEEDED|NOT_FOUND|ALREADY_EXISTS|"
    "PERMISSION_DENIED|RESOURCE_EXHAUSTED|FAILED_PRECONDITION|ABORTED|OUT_OF_RANGE|"
    "UNIMPLEMENTED|INTERNAL|UNAVAILABLE|DATA_LOSS): "
)
_SEE_DETAILS = ". See full TensorStore details"


def quieten() -> None:
    """Keeps from the user what is left of saves and restores that have failed."""
    absl_logging.get_absl_logger().addFilter(is_worth_telling)
    logging.getLogger("asyncio").addFilter(is_not_left_over)
    warnings.filterwarnings("ignore", _NEVER_AWAITED, RuntimeWarning)
    hook: object = sys.unraisablehook
    while isinstance(hook, functools.partial):  # preemption has one too
        if hook.func is _tell_others:
            return
        hook = hook.args[0] if hook.args else None
    sys.unraisablehook = functools.partial(_tell_others, sys.unraisablehook)


def is_worth_telling(record: logging.LogRecord) -> bool:
    """Not the tracebacks of a failure that we tell of, nor items nobody asked for."""
    if "orbax" not in record.pathname:
        return True
    echo, said = record.levelno >= logging.ERROR and record.exc_info, str(record.msg)
    return not (echo or "could not be restored" in said or said.startswith(_NO_NEWS))


def is_not_left_over(record: logging.LogRecord) -> bool:
    """Not asyncio's words on Orbax's tasks, and on what TensorStore promised them."""
    said = record.getMessage()
    if not _LEFT_ALONE.match(said):
        return True
    error = record.exc_info[1] if record.exc_info else None
    return not (
        "/orbax/" in said
        or (error is not None and _passes(error.__traceback__, "/orbax/"))
        or _STATUS.match(str(error))
    )


def _tell_others(
    before: Callable[["sys.UnraisableHookArgs"], object],
    unraisable: "sys.UnraisableHookArgs",
) -> None:
    of, error = unraisable.object, unraisable.exc_value
    if isinstance(of, CoroutineType) and "/orbax/" in of.cr_code.co_filename:
        return
    # TensorStore's threads answer to a loop that ended with the failure.
    closed = isinstance(error, RuntimeError) and str(error) == "Event loop is closed"
    if closed and of is None and _passes(unraisable.exc_traceback, "/asyncio/", all):
        return
    before(unraisable)


def _passes(
    trace: TracebackType | None,
    directory: str,
    how_many: Callable[[list[bool]], bool] = any,
) -> bool:
    """Whether any, or all, of a traceback's frames are of files below a directory."""
    frames = [frame for frame, _ in traceback.walk_tb(trace)]
    return how_many([directory in frame.f_code.co_filename for frame in frames])


def reason(error: Exception) -> str:
    """The operating system's words where it has any: TensorStore's are long."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    found = re.search(r"([A-Z][^:]*?) *\[os_error", str(error))
    return found[1] if found else first_line(error)


def first_line(error: BaseException) -> str:
    """An error's kind and the beginning of its message."""
    while _SEE_DETAILS in str(error) and error.__cause__ is not None:
        error = error.__cause__  # Orbax tells where, and TensorStore what is wrong
    message = str(error).partition("\n")[0].partition(" [tensorstore_spec")[0]
    return f"{type(error).__name__}: {message.partition(_SEE_DETAILS)[0]}"
