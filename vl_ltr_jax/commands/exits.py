"""Exit codes of commands: one message for a mistake that the user can mend."""

import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TypeAlias

from vl_ltr_jax.logs import console
from vl_ltr_jax.runtime import errors
from vl_ltr_jax.runtime.errors import UserError

Main: TypeAlias = Callable[[Sequence[str]], int]


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
    """Ends the process by :func:`refuse` after an error that a user can mend."""
    try:
        with errors.system_faults():
            yield
    except UserError as error:
        refuse(error)


def with_codes(main: Main) -> Main:
    """Returns a command whose user errors, Ctrl-C and closed pipes are exit codes."""

    @functools.wraps(main)
    def command(arguments: Sequence[str]) -> int:
        try:
            with errors.system_faults():
                return main(arguments)
        except UserError as error:
            return report(error)
        except KeyboardInterrupt:
            console.error("interrupted")
            return 128 + signal.SIGINT
        except BrokenPipeError:  # `| head` has read enough
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE

    return command
