"""Requests to stop: SIGTERM of a cluster, or Ctrl-C of a person.

Training notes the request and saves at its next step. Elsewhere it ends the process at
once: a stage's output is whole or absent, so nothing is lost. SIGTERM ends with a code
of its own, by which launchers start the run again. In a run of several processes JAX
watches for SIGTERM, and stops all of them at the same step; see
:meth:`manager.Checkpoints.reached_preemption`.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import jax

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: no fault, start it again
INTERRUPTED_CODE = 128 + signal.SIGINT  # a person's wish: stay down


class Preempted(SystemExit):
    """The process was asked to stop; the same command resumes."""

    def __init__(
        self, by: signal.Signals = signal.SIGTERM, step: int | None = None
    ) -> None:
        """Chooses the exit code.

        Args:
          by: SIGTERM, or SIGINT of a person.
          step: of training, at which it stopped.
        """
        super().__init__(INTERRUPTED_CODE if by == signal.SIGINT else EXIT_CODE)
        self.by, self.step = by, step


class Request(threading.Event):
    """A request to stop; set once a signal has come.

    Attributes:
      by: the signal, or None.
    """

    by: signal.Signals | None = None


def end_on_sigterm(tell: Callable[[str], None] = lambda text: None) -> None:
    """Lets SIGTERM end the process by :class:`Preempted`, so that files are closed.

    Args:
      tell: receives a line about it.
    """

    def end(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends it at once
        tell("stopped by SIGTERM: the same command goes on where it was")
        raise Preempted

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end)


@contextlib.contextmanager
def deferred() -> Iterator[Request]:
    """Notes a request to stop; a second Ctrl-C ends the process at once."""
    request = Request()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    shared = jax.distributed.is_initialized()

    def note(signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if shared:  # one process alone cannot save: JAX stops all of them
                os.kill(os.getpid(), signal.SIGTERM)
                return
        request.by = signal.Signals(signum)
        request.set()

    watched = [] if shared else [signal.SIGTERM]
    # A shell that puts a job in the background lets it ignore Ctrl-C.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        watched.append(signal.SIGINT)
    before = {number: signal.signal(number, note) for number in watched}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
