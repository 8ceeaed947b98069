"""A limit on the time that a reader may take."""

import contextlib
import signal
import traceback

_SECONDS = 60


@contextlib.contextmanager
def no_hang():
    """Fails what waits for a pipe, or goes round for ever, in place of waiting too."""

    def end(number, frame):
        raise TimeoutError("".join(traceback.format_stack(frame)))

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
