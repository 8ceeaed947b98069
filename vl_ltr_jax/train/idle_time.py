"""Idle time of the devices, attributed to data, logging or checkpoints.

While a step runs, the host waits for the next batch, writes logs, or saves. Only the
part of that work that outlasts the step leaves the devices idle. A thread notes the end
of each step.
"""

import collections
import contextlib
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any, Literal

import jax

# No warning of the first batches, or of runs of seconds.
_WARNING_SECONDS = 10.0
_WARNING_SHARE = 0.2

Work = Literal["data", "log", "checkpoint"]
WORKS: tuple[Work, ...] = ("data", "log", "checkpoint")


class IdleTime:
    """Sums of the seconds that devices were idle, by the host's work."""

    def __init__(self) -> None:
        self._watcher = futures.ThreadPoolExecutor(1, "idle_time")
        self._pending: collections.deque[
            tuple[Work, futures.Future[float], float, float]
        ] = collections.deque()
        self._ended: futures.Future[float] | None = None
        self._seconds = dict.fromkeys(WORKS, 0.0)
        self._training_seconds = self._data_seconds = 0.0
        self._warned = False

    @contextlib.contextmanager
    def during(self, work: Work) -> Iterator[None]:
        """Times the host's work between one step and the next.

        `checkpoint` is the part of a save that holds up the loop.
        """
        start = time.perf_counter()
        yield
        if self._ended is not None:
            self._pending.append((work, self._ended, start, time.perf_counter()))

    def start_step(self, outputs: Any) -> None:
        """Watches a step that has just started, by its outputs."""
        self._ended = self._watcher.submit(_when_ready, outputs)

    def seconds(self) -> dict[Work, float]:
        """Returns the idle seconds so far.

        This waits for the last step that work followed: fetch its metrics first.
        """
        while self._pending:
            work, ended, start, end = self._pending.popleft()
            self._seconds[work] += max(0.0, end - max(start, ended.result()))
        return dict(self._seconds)

    def warning(self, seconds: float, idle: float) -> str | None:
        """Returns a warning, once, when data has become the bottleneck.

        `idle` of the last `seconds` were spent on waiting for data.
        """
        self._training_seconds += seconds
        self._data_seconds += idle
        share = self._data_seconds / max(self._training_seconds, 1e-9)
        if self._warned or self._data_seconds < _WARNING_SECONDS:
            return None
        if share < _WARNING_SHARE:
            return None
        self._warned = True
        return f"the devices stood still for data {share:.0%} of the time"

    def close(self) -> None:
        """Ends the thread."""
        self._watcher.shutdown(wait=False, cancel_futures=True)


def _when_ready(outputs: Any) -> float:
    with contextlib.suppress(Exception):  # the loop raises a step's error itself
        jax.block_until_ready(outputs)
    return time.perf_counter()
