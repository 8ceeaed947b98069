"""How long the devices wait for data.

While a step runs, the next batch is made: waiting for it costs nothing until the
devices are done. A thread notes when each step ends, and what a wait lasts beyond that
is time that the devices stood still.
"""

import collections
import contextlib
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import jax

# When to speak of it: not for the first batches, nor for runs of seconds.
_WORTH_TELLING_SECONDS = 10.0
_WORTH_TELLING_SHARE = 0.2


class Pace:
    """Adds up the time that devices stand still for want of a batch."""

    def __init__(self) -> None:
        self._watcher = futures.ThreadPoolExecutor(1, "pace")
        self._waits: collections.deque[tuple[futures.Future[float], float, float]] = (
            collections.deque()
        )
        self._ended: futures.Future[float] | None = None
        self._idle_seconds = self._told_seconds = self._told_idle = 0.0
        self._told = False

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the wait for a batch."""
        start = time.perf_counter()
        yield
        if self._ended is not None:
            self._waits.append((self._ended, start, time.perf_counter()))

    def started(self, outputs: Any) -> None:
        """To be told the outputs of each step, which are on their way."""
        self._ended = self._watcher.submit(_when_ready, outputs)

    def idle_seconds(self) -> float:
        """Seconds of standing still in all steps that have ended."""
        while self._waits and self._waits[0][0].done():
            ended, start, end = self._waits.popleft()
            self._idle_seconds += max(0.0, end - max(start, ended.result()))
        return self._idle_seconds

    def warning(self, seconds: float, idle: float) -> str | None:
        """What to tell, once, when data has become the bottleneck.

        Args:
          seconds: a stretch of training.
          idle: of which the devices stood still.
        """
        self._told_seconds += seconds
        self._told_idle += idle
        share = self._told_idle / max(self._told_seconds, 1e-9)
        if self._told or self._told_idle < _WORTH_TELLING_SECONDS:
            return None
        if share < _WORTH_TELLING_SHARE:
            return None
        self._told = True
        return f"the devices stood still for data {share:.0%} of the time"

    def close(self) -> None:
        """Ends the thread."""
        self._watcher.shutdown(wait=False, cancel_futures=True)


def _when_ready(outputs: Any) -> float:
    with contextlib.suppress(Exception):  # the loop meets a step's error itself
        jax.block_until_ready(outputs)
    return time.perf_counter()
