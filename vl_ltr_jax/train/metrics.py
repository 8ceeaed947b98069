"""Metrics of training steps: fetched one step late, checked, and logged at intervals.

Each interval's wall time is split into four parts, in milliseconds a step.
`step_time/data_ms`, `log_ms` and `checkpoint_ms` are the devices' idle time while the
host waited for a batch, wrote metrics, or saved. Host work behind a
running step costs nothing and is not counted. `step_time/step_ms` is the rest. The
first step of a start compiles: it is left out unless it is logged itself.
"""

import math
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import jax

from vl_ltr_jax.logs.event_files import Logs
from vl_ltr_jax.train.idle_time import IdleTime

Rates = Callable[[float], Mapping[str, float]]  # of steps a second


class Span(NamedTuple):
    """The steps that one start of a stage trains.

    Attributes:
      first_step: steps before this start.
      num_steps: number of the last step.
      images_per_step: images in a global batch.
      log_every_steps: interval of metrics and progress lines.
    """

    first_step: int
    num_steps: int
    images_per_step: int
    log_every_steps: int


@runtime_checkable
class Loading(Protocol):
    """Statistics of making batches."""

    def metrics(self) -> Mapping[str, float]:
        """Returns numbers to log."""
        ...

    def explain(self) -> str:
        """Describes the largest costs, and what would help."""
        ...


class TrainMetrics:
    """Checks and logs the metrics of each step while the next one runs."""

    def __init__(
        self,
        span: Span,
        *,
        logs: Logs,
        idle_time: IdleTime,
        on_non_finite: Callable[[int, Mapping[str, float]], str],
        loading: Loading | None,
        rates: Rates,
    ) -> None:
        """Starts the clock; most arguments are as in :func:`loop.train`.

        `on_non_finite` gets a step and its metrics if one of them is not finite. It
        raises, or returns a warning.
        """
        self._span, self._logs, self._on_non_finite = span, logs, on_non_finite
        self._idle_time, self._loading, self._rates = idle_time, loading, rates
        self._pending: tuple[int, Mapping[str, jax.Array]] | None = None
        self._clock = (span.first_step, time.perf_counter())
        self._idle_seconds = idle_time.seconds()

    def push(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Takes the metrics of a running step, and checks those of the step before."""
        self.flush()
        self._pending = (step, metrics)

    def flush(self) -> None:
        """Checks the pending metrics, which waits for their step."""
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        values = {name: float(v) for name, v in jax.device_get(dict(metrics)).items()}
        if not all(map(math.isfinite, values.values())):
            self._logs.warning(self._on_non_finite(step, values))
        elif step % self._span.log_every_steps == 0 or step == self._span.num_steps:
            self._log(step, values)
        elif step == self._span.first_step + 1:
            self._clock = (step, time.perf_counter())  # leave compilation out
            self._idle_seconds = self._idle_time.seconds()

    def _log(self, step: int, values: Mapping[str, float]) -> None:
        """Logs the metrics of an interval's last step, and the parts of its time."""
        now = time.perf_counter()
        previous_step, since = self._clock
        self._clock = (step, now)
        before, self._idle_seconds = self._idle_seconds, self._idle_time.seconds()
        idle: dict[str, float] = {
            work: self._idle_seconds[work] - before[work] for work in before
        }
        seconds, num_steps = now - since, step - previous_step
        steps_per_second = num_steps / seconds
        images_per_second = steps_per_second * self._span.images_per_step
        parts, ms = {**idle, "step": seconds - sum(idle.values())}, 1000 / num_steps
        with self._idle_time.during("log"):
            measured = {
                "throughput/steps_per_second": steps_per_second,
                "throughput/images_per_second": images_per_second,
                "throughput/waiting_for_data": idle["data"] / seconds,
                **self._rates(steps_per_second),
                **{f"step_time/{part}_ms": ms * spent for part, spent in parts.items()},
                **(self._loading.metrics() if self._loading else {}),
            }
            self._logs.scalars(step, {**values, **measured})
            if warning := self._idle_time.warning(seconds, idle["data"]):
                reason = f"; {self._loading.explain()}" if self._loading else ""
                self._logs.warning(f"{warning}{reason}")
            self._logs.progress(
                step,
                self._span.num_steps,
                values,
                steps_per_second=steps_per_second,
                images_per_second=images_per_second,
            )
