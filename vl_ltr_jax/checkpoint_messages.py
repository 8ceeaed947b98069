"""What Orbax and TensorStore say: shortened, and what of it is no news left out."""

import re
from logging import ERROR, LogRecord


def is_worth_telling(record: LogRecord) -> bool:
    """Not the tracebacks of a failure that we tell of, nor items nobody asked for."""
    if "orbax" not in record.pathname:
        return True
    echo = record.levelno >= ERROR and record.exc_info
    return not echo and "could not be restored" not in str(record.msg)


def reason(error: Exception) -> str:
    """The operating system's words where it has any: TensorStore's are long."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    found = re.search(r"([A-Z][^:]*?) *\[os_error", str(error))
    return found[1] if found else first_line(error)


def first_line(error: Exception) -> str:
    """An error's kind and the beginning of its message."""
    message = str(error).partition("\n")[0].partition(" [tensorstore_spec")[0]
    return f"{type(error).__name__}: {message}"
