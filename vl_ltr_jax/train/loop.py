"""The one host loop of training: batch, step, log, checkpoint.

Stages differ by the step function and the batches they pass in. Metrics are fetched
one step late, so that the devices always have the next step to work on.
"""

import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax

from vl_ltr_jax.checkpoint.manager import Checkpoints
from vl_ltr_jax.checkpoint.retry import Saves
from vl_ltr_jax.logs.event_files import Logs
from vl_ltr_jax.runtime import preemption
from vl_ltr_jax.runtime.preemption import Preempted
from vl_ltr_jax.train.idle_time import IdleTime
from vl_ltr_jax.train.metrics import Loading, Rates, Span, TrainMetrics
from vl_ltr_jax.train.non_finite import NonFiniteSteps

State = TypeVar("State")
Batch = Mapping[str, jax.Array]
BoundStep = Callable[[State, Batch], tuple[State, Mapping[str, jax.Array]]]


def train(
    state: State,
    step_fn: BoundStep[State],
    batches: Iterator[Batch],
    span: Span,
    *,
    checkpoints: Checkpoints,
    logs: Logs,
    meta: Callable[[], Mapping[str, Any]] = dict,
    loading: Loading | None = None,
    rates: Rates = lambda steps_per_second: {},
    non_finite: NonFiniteSteps | None = None,
    max_failed_saves: int = 0,
) -> State:
    """Trains over a span of steps, and leaves a checkpoint of the last.

    Args:
      state: after `span.first_step` steps; `step_fn` may donate it.
      step_fn: compiled step, from state and batch to state and 0-d metrics.
      batches: global arrays, the next for step `span.first_step + 1`.
      span: of steps.
      checkpoints: written at their interval, at the end and on a signal.
      logs: receive metrics and throughput.
      meta: called at each checkpoint for what to save with the state.
      loading: statistics of the batches.
      rates: from steps a second to further metrics, such as operations.
      non_finite: policy for metrics that are not finite; stops at the first by default.
      max_failed_saves: consecutive failures that stop training; 0 for no limit.

    Returns:
      The state after the last step.

    Raises:
      NonFiniteLossError: a metric is not finite; no such state is saved.
      CheckpointError: too many saves have failed in a row.
      Preempted: on SIGTERM or Ctrl-C, after a save of the last step.
    """
    num_steps = span.num_steps
    idle_time, guard = IdleTime(), non_finite or NonFiniteSteps()
    saves = Saves(checkpoints, warn=logs.warning, max_failures=max_failed_saves)

    def on_non_finite(step: int, values: Mapping[str, float]) -> str:
        saves.settle()
        return guard.record(
            step, values, checkpoints.latest_step, checkpoints.directory
        )

    late = TrainMetrics(
        span,
        logs=logs,
        idle_time=idle_time,
        on_non_finite=on_non_finite,
        loading=loading,
        rates=rates,
    )
    with preemption.deferred() as requests, contextlib.closing(idle_time):
        for step in range(span.first_step + 1, num_steps + 1):
            with idle_time.during("data"):
                batch = next(batches)
            # A host array handed to the step would stall the devices at every step.
            with jax.transfer_guard("disallow"):
                state, metrics = step_fn(state, batch)
            idle_time.start_step(metrics)
            late.push(step, metrics)
            with idle_time.during("log"):
                logs.after_step(step - span.first_step)
            by = requests.by
            if checkpoints.reached_preemption(step):
                by = signal.SIGTERM
            if step == num_steps or by or checkpoints.due(step):
                late.flush()  # a state whose loss is not finite is not worth keeping
                with idle_time.during("checkpoint"):
                    saves.save(step, state, meta())
            if by:
                raise _stopped(by, step, saves, checkpoints, logs)
        if not saves.finish(num_steps, state, meta, requests):
            by = requests.by or signal.SIGTERM
            raise _stopped(by, num_steps, saves, checkpoints, logs)
    return state


def _stopped(
    by: signal.Signals, step: int, saves: Saves, checkpoints: Checkpoints, logs: Logs
) -> Preempted:
    """Waits for the last save, and warns with the step of the last checkpoint."""
    saved = saves.settle() and checkpoints.latest_step == step
    name = "SIGTERM" if by == signal.SIGTERM else "Ctrl-C"
    state = f"step {step} is saved"
    if not saved:
        latest = checkpoints.latest_step
        state = f"step {step} could not be saved, the last checkpoint is {latest}"
    logs.warning(f"stopped by {name}; {state}; the same command goes on from there")
    return Preempted(by, step)
