"""Short reasons of errors that Orbax and TensorStore raise."""

import re

_SEE_DETAILS = ". See full TensorStore details"


def reason(error: Exception) -> str:
    """Returns the operating system's words if there are any: TensorStore's are long."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    words = re.search(r"([A-Z][^:]*?) *\[os_error", str(error))
    return words[1] if words else first_line(error)


def first_line(error: BaseException) -> str:
    """Returns an error's kind and the beginning of its message."""
    while _SEE_DETAILS in str(error) and error.__cause__ is not None:
        error = error.__cause__  # Orbax says where, and TensorStore what is wrong
    message = str(error).partition("\n")[0].partition(" [tensorstore_spec")[0]
    return f"{type(error).__name__}: {message.partition(_SEE_DETAILS)[0]}"
