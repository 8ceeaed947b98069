"""The end of a command that a user's mistake has stopped: one message and a code."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

from vl_ltr_jax.logs import console
from vl_ltr_jax.runtime import errors
from vl_ltr_jax.runtime.errors import UserError


def report(error: UserError) -> int:
    """Prints an error and returns its exit code."""
    console.error(str(error))
    return error.exit_code


def refuse(error: UserError) -> NoReturn:
    """Ends the process with one message and the error's exit code.

    Launchers stop at 2: a predecessor that is still dying must not end a job.
    """
    code = report(error)
    jax: Any = sys.modules.get("jax")  # a command without JAX need not import it
    if jax is not None and jax.distributed.is_initialized():
        # An orderly end would wait for processes that wait for this one.
        os._exit(code)
    sys.exit(code)


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Ends the process by :func:`refuse` after what a user can mend, and only then."""
    try:
        with errors.system_faults():
            yield
    except UserError as error:
        refuse(error)
