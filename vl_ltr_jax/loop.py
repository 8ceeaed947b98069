"""The one host loop of training: batch, step, log, checkpoint, evaluate.

Stages differ by the step function and the batches they pass in. Metrics are fetched
one step late, so that the devices always have the next step to work on.

Each interval's wall time is split into four parts, in milliseconds a step, which add up
to it. `step_time/data_ms`, `log_ms` and `checkpoint_ms` are the time that the devices
stood still while the host waited for a batch, wrote metrics, or saved; what it does
while they work costs nothing and is not counted. `step_time/step_ms` is the rest: the
devices at work, and the host handing them work. The first step of a start compiles: it
is left out unless it is logged itself. Evaluation is left out too.
"""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax

from vl_ltr_jax.checkpoint import Checkpoints
from vl_ltr_jax.logs import Logs
from vl_ltr_jax.pace import Pace


@runtime_checkable
class HasStep(Protocol):
    """A training state: a pytree of arrays that counts its steps."""

    @property
    def step(self) -> Any:
        """Steps done, a 0-d integer array."""


@runtime_checkable
class Loading(Protocol):
    """What is known of the making of batches."""

    def metrics(self) -> Mapping[str, float]:
        """Numbers to log."""
        ...

    def explain(self) -> str:
        """Where the time goes, and what would help, in words."""
        ...


State = TypeVar("State", bound=HasStep)
Batch = Mapping[str, jax.Array]
StepFunction = Callable[[State, Batch], tuple[State, Mapping[str, jax.Array]]]
Evaluation = Callable[[State, int], Mapping[str, float]]
Rates = Callable[[float], Mapping[str, float]]  # of steps a second


class NonFiniteLossError(FloatingPointError):
    """A metric of a training step became NaN or infinite."""


class Preempted(SystemExit):
    """The process was asked to stop and has saved its state; starting again resumes."""

    def __init__(self, step: int):
        super().__init__(128 + signal.SIGTERM)
        self.step = step


def train(
    state: State,
    step_fn: StepFunction[State],
    batches: Iterator[Batch],
    *,
    first_step: int,
    num_steps: int,
    checkpoints: Checkpoints,
    logs: Logs,
    log_every_steps: int,
    images_per_step: int,
    meta: Callable[[], Mapping[str, Any]] = dict,
    evaluate: Evaluation[State] | None = None,
    evaluate_every_steps: int | None = None,
    loading: Loading | None = None,
    rates: Rates = lambda steps_per_second: {},
) -> State:
    """Trains from `first_step` to `num_steps` and leaves a checkpoint of the end.

    Args:
        state: the state after `first_step` steps. `step_fn` may donate it.
        step_fn: a compiled step: state and batch to state and 0-d metrics.
        batches: global arrays, the next of which belongs to step `first_step + 1`.
        first_step: steps done before; above 0 when a run resumes.
        num_steps: steps in all, those before `first_step` included.
        checkpoints: written at their interval, at the end, and on SIGTERM.
        logs: where metrics go, with the throughput.
        log_every_steps: interval of metrics and progress lines.
        images_per_step: images in a global batch.
        meta: asked at each checkpoint for what to save beside the state.
        evaluate: called with the state and the steps done; its metrics are logged.
        evaluate_every_steps: interval of `evaluate`, which also runs at the end.
        loading: tells of the batches, with the metrics and when devices wait for them.
        rates: from steps a second to what is logged with them, such as operations.

    Returns:
        The state after `num_steps` steps.

    Raises:
        NonFiniteLossError: names the step, the metric and the last checkpoint, which
            is never one with a NaN.
        Preempted: SIGTERM came; a checkpoint of the last step is complete.
        ValueError: `first_step` is not the state's step or beyond `num_steps`, or the
            batches ended early.
    """
    if int(jax.device_get(state.step)) != first_step or first_step > num_steps:
        raise ValueError(
            f"cannot train from step {first_step} to {num_steps} with a state of step"
            f" {jax.device_get(state.step)}: the two steps must be equal, and at most"
            " the last one"
        )
    pace = Pace()
    late = _LateMetrics(
        first_step,
        num_steps,
        log_every_steps,
        images_per_step,
        checkpoints,
        logs,
        pace,
        loading,
        rates,
    )
    with _sigterm_flag() as sigterm, contextlib.closing(pace):
        for step in range(first_step + 1, num_steps + 1):
            with pace.at("data"):
                batch = _next(batches, step)
            # A host array handed to the step would stall the devices at every step.
            with jax.transfer_guard("disallow"):
                state, metrics = step_fn(state, batch)
            pace.started(metrics)
            late.push(step, metrics)
            with pace.at("log"):
                logs.after_step(step - first_step)
            last = step == num_steps
            stopping = sigterm.is_set() or checkpoints.reached_preemption(step)
            if last or stopping or checkpoints.due(step):
                late.flush()  # a state whose loss is not finite is not worth keeping
                with pace.at("checkpoint"):
                    checkpoints.save(step, state, meta())
            if stopping:
                checkpoints.wait()
                logs.warning(f"stopped by SIGTERM; step {step} is saved")
                raise Preempted(step)
            due = evaluate_every_steps and step % evaluate_every_steps == 0
            if evaluate is not None and (last or due):
                with late.paused():
                    logs.scalars(step, evaluate(state, step))
    checkpoints.save(num_steps, state, meta())
    checkpoints.wait()
    return state


class _LateMetrics:
    """Checks and logs the metrics of each step while the next one runs."""

    def __init__(
        self,
        first_step: int,
        num_steps: int,
        log_every_steps: int,
        images_per_step: int,
        checkpoints: Checkpoints,
        logs: Logs,
        pace: Pace,
        loading: Loading | None,
        rates: Rates,
    ):
        self._compiled_step = first_step + 1
        self._num_steps = num_steps
        self._log_every_steps = log_every_steps
        self._images_per_step = images_per_step
        self._checkpoints = checkpoints
        self._logs = logs
        self._pace, self._loading, self._rates = pace, loading, rates
        self._pending: tuple[int, Mapping[str, jax.Array]] | None = None
        self._clock = (first_step, time.perf_counter())
        self._idle_seconds = pace.idle_seconds()

    def push(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        self.flush()
        self._pending = (step, metrics)

    def flush(self) -> None:
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        values = {name: float(v) for name, v in jax.device_get(dict(metrics)).items()}
        for name, value in values.items():
            if not math.isfinite(value):
                self._fail(step, name, value)
        if step % self._log_every_steps == 0 or step == self._num_steps:
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

    def _fail(self, step: int, name: str, value: float) -> None:
        self._checkpoints.wait()
        saved = self._checkpoints.latest_step
        raise NonFiniteLossError(
            f"{name} is {value} at step {step}; the last good checkpoint is "
            + (f"step {saved} in {self._checkpoints.directory}" if saved else "none")
            + ". Lower the learning rate, lengthen the warm-up, or compute in float32, "
            "in a new --workdir"
        )


def _next(batches: Iterator[Batch], step: int) -> Batch:
    try:
        return next(batches)
    except StopIteration:
        raise ValueError(
            f"the batches ended before step {step}: training needs an endless iterator"
        ) from None


@contextlib.contextmanager
def _sigterm_flag() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, where JAX does not watch for it already."""
    received = threading.Event()
    watched = jax.distributed.is_initialized()
    if watched or threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(signum: int, frame: FrameType | None) -> None:
        received.set()

    previous = signal.signal(signal.SIGTERM, note)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, previous)
