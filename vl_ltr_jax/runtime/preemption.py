"""Asked to stop: SIGTERM of a cluster, or Ctrl-C of a person.

Training notes the request and saves at its next step. Elsewhere it ends the process at
once: what a stage leaves is whole or absent, so nothing is lost. SIGTERM ends with a
code of its own, by which launchers know that they should start the run again. In a run
of several processes JAX watches for SIGTERM, and tells all of them to stop at the same
step; see :meth:`manager.Checkpoints.reached_preemption`.
"""

import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import jax

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, start it again
INTERRUPTED_CODE = 128 + signal.SIGINT  # a person's wish: stay down
_AGAIN_SECONDS = 0.05


class Preempted(SystemExit):
    """The process was asked to stop; starting again goes on where it was."""

    def __init__(
        self, by: signal.Signals = signal.SIGTERM, step: int | None = None
    ) -> None:
        """Binds what asked.

        Args:
          by: SIGTERM, or SIGINT of a person.
          step: of training, at which it stopped.
        """
        super().__init__(INTERRUPTED_CODE if by == signal.SIGINT else EXIT_CODE)
        self.by, self.step = by, step


class Request:
    """Whether something has asked the process to stop."""

    def __init__(self) -> None:
        """Nothing has, yet."""
        self._event = threading.Event()
        self.by: signal.Signals | None = None

    def note(self, by: signal.Signals) -> None:
        """To be called when something does."""
        self.by = by
        self._event.set()

    def wait(self, seconds: float) -> bool:
        """Sleeps, not past a request; tells whether there is one."""
        return self._event.wait(seconds)


def end_on_sigterm(tell: Callable[[str], None] = lambda text: None) -> None:
    """Lets SIGTERM end the process by :class:`Preempted`, and files be closed.

    Args:
      tell: is given a line that says so.
    """

    def end(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends it at once
        tell("stopped by SIGTERM: the same command goes on where it was")
        raise Preempted

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end)
        before = sys.unraisablehook
        if getattr(before, "func", None) is not _raise_again:
            sys.unraisablehook = functools.partial(_raise_again, before)


def _raise_again(
    before: Callable[["sys.UnraisableHookArgs"], object],
    unraisable: "sys.UnraisableHookArgs",
) -> None:
    """Ends the process a little later, if a signal has come in a bad moment.

    What is raised in a callback of garbage collection, of which JAX has one, Python
    only tells of, and goes on.
    """
    swallowed = unraisable.exc_value
    if not isinstance(swallowed, Preempted | KeyboardInterrupt):
        before(unraisable)
        return

    def end(signum: int, frame: FrameType | None) -> None:
        raise type(swallowed)

    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)


@contextlib.contextmanager
def deferred() -> Iterator[Request]:
    """Inside, a request to stop is noted; a second Ctrl-C ends the process at once."""
    request = Request()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    shared = jax.distributed.is_initialized()

    def note(signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if shared:  # one process alone cannot save: JAX tells the others
                os.kill(os.getpid(), signal.SIGTERM)
                return
        request.note(signal.Signals(signum))

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
