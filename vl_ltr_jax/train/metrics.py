"""Metrics of training steps: fetched one step late, checked, and logged at intervals.

Each interval's wall time is split into four parts, in milliseconds a step, which add up
to it. `step_time/data_ms`, `log_ms` and `checkpoint_ms` are the time that the devices
stood still while the host waited for a batch, wrote metrics, or saved; what it does
while they work costs nothing and is not counted. `step_time/step_ms` is the rest: the
devices at work, and the host handing them work. The first step of a start compiles: it
is left out unless it is logged itself. Evaluation is left out too.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, runtime_checkable

import jax

from vl_ltr_jax.logs.event_files import Logs
from vl_ltr_jax.train.idle_time import Pace

Rates = Callable[[float], Mapping[str, float]]  # of steps a second


@runtime_checkable
class Loading(Protocol):
    """What is known of the making of batches."""

    def metrics(self) -> Mapping[str, float]:
        """Numbers to log."""
        ...

    def explain(self) -> str:
        """Where the time goes, and what would help, in words."""
        ...


class TrainMetrics:
    """Checks and logs the metrics of each step while the next one runs."""

    def __init__(
        self,
        first_step: int,
        num_steps: int,
        *,
        log_every_steps: int,
        images_per_step: int,
        logs: Logs,
        pace: Pace,
        not_finite: Callable[[int, Mapping[str, float]], str],
        loading: Loading | None,
        rates: Rates,
    ) -> None:
        """Binds what the metrics of a stage are for; most is as in `loop.train`.

        Args:
            first_step: steps done before.
            num_steps: steps in all.
            log_every_steps: interval of metrics and progress lines.
            images_per_step: images in a global batch.
            logs: where they go.
            pace: knows how long the devices stood still.
            not_finite: is given a step and its metrics where one of them is not; it
                raises, or returns what to tell.
            loading: tells of the batches.
            rates: from steps a second to what is logged with them.
        """
        self._compiled_step = first_step + 1
        self._num_steps = num_steps
        self._log_every_steps = log_every_steps
        self._images_per_step = images_per_step
        self._not_finite = not_finite
        self._logs = logs
        self._pace, self._loading, self._rates = pace, loading, rates
        self._pending: tuple[int, Mapping[str, jax.Array]] | None = None
        self._clock = (first_step, time.perf_counter())
        self._idle_seconds = pace.idle_seconds()

    def push(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Takes those of a step that is on its way, and looks at those before."""
        self.flush()
        self._pending = (step, metrics)

    def flush(self) -> None:
        """Looks at the last ones taken, which waits for their step."""
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        values = {name: float(v) for name, v in jax.device_get(dict(metrics)).items()}
        if not all(map(math.isfinite, values.values())):
            self._logs.warning(self._not_finite(step, values))
        elif step % self._log_every_steps == 0 or step == self._num_steps:
            self._log(step, values)
        elif step == self._compiled_step:
            self._clock = (step, time.perf_counter())  # leave compilation out
            self._idle_seconds = self._pace.idle_seconds()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves what happens inside out of the throughput."""
        self.flush()
        started = time.perf_counter()
        yield
        step, since = self._clock
        self._clock = (step, since + time.perf_counter() - started)

    def _log(self, step: int, values: Mapping[str, float]) -> None:
        now = time.perf_counter()
        previous_step, since = self._clock
        self._clock = (step, now)
        seconds, num_steps = now - since, step - previous_step
        before, self._idle_seconds = self._idle_seconds, self._pace.idle_seconds()
        idle: dict[str, float] = {
            work: self._idle_seconds[work] - before[work] for work in before
        }
        with self._pace.at("log"):
            self._write(step, values, seconds, num_steps, idle)

    def _write(
        self,
        step: int,
        values: Mapping[str, float],
        seconds: float,
        num_steps: int,
        idle: Mapping[str, float],
    ) -> None:
        """Logs an interval: the metrics of its last step, and where its time went."""
        steps_per_second = num_steps / seconds
        images_per_second = steps_per_second * self._images_per_step
        parts, ms = {**idle, "step": seconds - sum(idle.values())}, 1000 / num_steps
        measured = {
            "throughput/steps_per_second": steps_per_second,
            "throughput/images_per_second": images_per_second,
            "throughput/waiting_for_data": idle["data"] / seconds,
            **self._rates(steps_per_second),
            **{f"step_time/{part}_ms": ms * spent for part, spent in parts.items()},
            **(self._loading.metrics() if self._loading else {}),
        }
        self._logs.scalars(step, {**values, **measured})
        if told := self._pace.warning(seconds, idle["data"]):
            why = f"; {self._loading.explain()}" if self._loading else ""
            self._logs.warning(f"{told}{why}")
        self._logs.progress(
            step,
            self._num_steps,
            values,
            steps_per_second=steps_per_second,
            images_per_second=images_per_second,
        )
