"""How long the devices stand still, and what for.

While a step runs, the host waits for the next batch, writes logs, or saves: that costs
nothing until the devices are done. A thread notes when each step ends, and what the
host's work lasts beyond that is time that the devices stood still for it.
"""

import collections
import contextlib
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any, Literal

import jax

# When to speak of it: not for the first batches, nor for runs of seconds.
_WORTH_TELLING_SECONDS = 10.0
_WORTH_TELLING_SHARE = 0.2

Work = Literal["data", "log", "checkpoint"]
WORKS: tuple[Work, ...] = ("data", "log", "checkpoint")


class Pace:
    """Adds up the time that devices stand still, by what the host does meanwhile."""

    def __init__(self) -> None:
        self._watcher = futures.ThreadPoolExecutor(1, "pace")
        self._done: collections.deque[
            tuple[Work, futures.Future[float], float, float]
        ] = collections.deque()
        self._ended: futures.Future[float] | None = None
        self._idle_seconds = dict.fromkeys(WORKS, 0.0)
        self._told_seconds = self._told_idle = 0.0
        self._told = False

    @contextlib.contextmanager
    def at(self, work: Work) -> Iterator[None]:
        """Around what the host does between one step and the next.

        Args:
          work: `data` is the wait for a batch, `log` the writing of metrics and of
            profiles, `checkpoint` a save, as long as it holds up the loop.
        """
        start = time.perf_counter()
        yield
        if self._ended is not None:
            self._done.append((work, self._ended, start, time.perf_counter()))

    def started(self, outputs: Any) -> None:
        """To be told the outputs of each step, which are on their way."""
        self._ended = self._watcher.submit(_when_ready, outputs)

    def idle_seconds(self) -> dict[Work, float]:
        """Seconds of standing still so far.

        To be asked when the metrics of the last step that work followed are there:
        before that it would wait for the step.
        """
        while self._done:
            work, ended, start, end = self._done.popleft()
            self._idle_seconds[work] += max(0.0, end - max(start, ended.result()))
        return dict(self._idle_seconds)

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
