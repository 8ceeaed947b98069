"""The one host loop of training: batch, step, log, checkpoint, evaluate.

Stages differ by the step function and the batches they pass in. Metrics are fetched
one step late, so that the devices always have the next step to work on.
"""

import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax

from vl_ltr_jax.checkpoint.manager import Checkpoints
from vl_ltr_jax.checkpoint.retry import Saves
from vl_ltr_jax.logs.event_files import Logs
from vl_ltr_jax.runtime import preemption
from vl_ltr_jax.runtime.preemption import Preempted
from vl_ltr_jax.train.idle_time import Pace
from vl_ltr_jax.train.metrics import Loading, Rates, TrainMetrics
from vl_ltr_jax.train.non_finite import NonFiniteSteps


@runtime_checkable
class HasStep(Protocol):
    """A training state: a pytree of arrays that counts its steps."""

    @property
    def step(self) -> Any:
        """Steps done, a 0-d integer array."""


State = TypeVar("State", bound=HasStep)
Batch = Mapping[str, jax.Array]
StepFunction = Callable[[State, Batch], tuple[State, Mapping[str, jax.Array]]]
Evaluation = Callable[[State, int], Mapping[str, float]]


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
    non_finite: NonFiniteSteps | None = None,
    max_failed_saves: int = 0,
) -> State:
    """Trains from `first_step` to `num_steps` and leaves a checkpoint of the end.

    Args:
        state: the state after `first_step` steps. `step_fn` may donate it.
        step_fn: a compiled step: state and batch to state and 0-d metrics.
        batches: global arrays, the next of which belongs to step `first_step + 1`.
        first_step: steps done before; above 0 when a run resumes.
        num_steps: steps in all, those before `first_step` included.
        checkpoints: written at their interval, at the end, and when asked to stop; one
            that cannot be written is told of, and the next is tried.
        logs: where metrics go, with the throughput.
        log_every_steps: interval of metrics and progress lines.
        images_per_step: images in a global batch.
        meta: asked at each checkpoint for what to save beside the state.
        evaluate: called with the state and the steps done; its metrics are logged.
        evaluate_every_steps: interval of `evaluate`, which also runs at the end.
        loading: tells of the batches, with the metrics and when devices wait for them.
        rates: from steps a second to what is logged with them, such as operations.
        non_finite: what to do about metrics that are not finite; by default the first
            one stops.
        max_failed_saves: in a row, with which training stops; 0 for no limit.

    Returns:
        The state after `num_steps` steps.

    Raises:
        NonFiniteLossError: names the step, the metric and the last checkpoint, which
            is never one with a NaN.
        CheckpointError: too many saves have failed in a row.
        Preempted: SIGTERM or Ctrl-C came; a checkpoint of the last step is complete, if
            it could be written.
        ValueError: `first_step` is not the state's step or beyond `num_steps`, or the
            batches ended early.
    """
    if int(jax.device_get(state.step)) != first_step or first_step > num_steps:
        raise ValueError(
            f"cannot train from step {first_step} to {num_steps} with a state of step"
            f" {jax.device_get(state.step)}: the two steps must be equal, and at most"
            " the last one"
        )
    pace, guard = Pace(), non_finite or NonFiniteSteps()
    saves = Saves(checkpoints, warn=logs.warning, max_failures=max_failed_saves)

    def met(step: int, values: Mapping[str, float]) -> str:
        saves.settle()
        return guard.meet(step, values, checkpoints.latest_step, checkpoints.directory)

    late = TrainMetrics(
        first_step,
        num_steps,
        log_every_steps=log_every_steps,
        images_per_step=images_per_step,
        logs=logs,
        pace=pace,
        not_finite=met,
        loading=loading,
        rates=rates,
    )
    with preemption.deferred() as asked, contextlib.closing(pace):
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
            by = asked.by
            if checkpoints.reached_preemption(step):
                by = signal.SIGTERM
            if last or by or checkpoints.due(step):
                late.flush()  # a state whose loss is not finite is not worth keeping
                with pace.at("checkpoint"):
                    saves.save(step, state, meta())
            if by:
                raise _stopped(by, step, saves, checkpoints, logs)
            due = evaluate_every_steps and step % evaluate_every_steps == 0
            if evaluate is not None and (last or due):
                with late.paused():
                    logs.scalars(step, evaluate(state, step))
        if not saves.finish(num_steps, state, meta, asked):
            raise _stopped(
                asked.by or signal.SIGTERM, num_steps, saves, checkpoints, logs
            )
    return state


def _stopped(
    by: signal.Signals, step: int, saves: Saves, checkpoints: Checkpoints, logs: Logs
) -> Preempted:
    """Waits for the last save, and says what is on the disk."""
    saved = saves.settle() and checkpoints.latest_step == step
    what = "SIGTERM" if by == signal.SIGTERM else "Ctrl-C"
    latest = checkpoints.latest_step
    told = f"step {step} is saved"
    if not saved:
        told = f"step {step} could not be saved, the last checkpoint is {latest}"
    logs.warning(f"stopped by {what}; {told}; the same command goes on from there")
    return Preempted(by, step)


def _next(batches: Iterator[Batch], step: int) -> Batch:
    try:
        return next(batches)
    except StopIteration:
        raise ValueError(
            f"the batches ended before step {step}: training needs an endless iterator"
        ) from None
