import itertools
import os
import signal

import jax
import numpy as np
import pytest

from vl_ltr_jax.checkpoint.manager import Checkpoints
from vl_ltr_jax.runtime.preemption import Preempted
from vl_ltr_jax.train.loop import train
from vl_ltr_jax.train.non_finite import NonFiniteLossError
from worlds.loop_world import (
    Recorder,
    assert_bit_equal,
    batches,
    new_state,
    run,
    step_fn,
)


def test_a_resumed_run_is_bit_equal_to_an_unbroken_one(tmp_path):
    whole, _ = run(tmp_path / "whole", num_steps=10)
    run(tmp_path / "parts", num_steps=6)
    resumed, logs = run(tmp_path / "parts", num_steps=10)
    assert_bit_equal(resumed, whole)
    assert min(logs.written) > 6
    with Checkpoints(tmp_path / "parts", every_steps=1) as checkpoints:
        assert checkpoints.restore_latest(new_state())[1] == {"starts": 2}
    finished, logs = run(tmp_path / "parts", num_steps=10)
    assert_bit_equal(finished, whole)
    assert not logs.written


def test_metrics_are_logged_at_the_interval_and_at_the_end(tmp_path):
    def rates(steps_per_second):
        return {"throughput/model_teraflops_per_second": 5 * steps_per_second}

    _, logs = run(tmp_path, num_steps=8, rates=rates)
    parts = [f"step_time/{p}_ms" for p in ("data", "step", "log", "checkpoint")]
    assert logs.progressed == [(3, 8), (6, 8), (8, 8)]
    assert sorted(logs.written) == [3, 6, 8]
    assert set(logs.written[3]) == {
        "loss",
        "loss/visual",
        "throughput/steps_per_second",
        "throughput/images_per_second",
        "throughput/waiting_for_data",
        "throughput/model_teraflops_per_second",
        *parts,
    }
    for written in logs.written.values():
        spent = [written[name] for name in parts]
        assert min(spent) >= 0
        steps_per_second = written["throughput/steps_per_second"]
        assert sum(spent) == pytest.approx(1000 / steps_per_second)
        rate = written["throughput/model_teraflops_per_second"]
        assert rate == 5 * steps_per_second
    eager = new_state()
    for step, batch in zip(range(1, 7), batches(), strict=False):
        eager, metrics = step_fn(eager, batch)
        if step in logs.written:
            want = float(metrics["loss"])
            np.testing.assert_allclose(logs.written[step]["loss"], want, rtol=1e-5)


def test_metrics_are_fetched_while_the_next_step_runs(tmp_path):
    """Fetching right after each step would log 1 before step 2 is dispatched."""
    dispatched = []
    compiled = jax.jit(step_fn)

    class Watching(Recorder):
        def scalars(self, step, values):
            assert dispatched[-1] == step + 1 or step == 6
            super().scalars(step, values)

    def step(state, batch):
        dispatched.append(len(dispatched) + 1)
        return compiled(state, batch)

    logs = Watching()
    options = {"log_every_steps": 1, "checkpoint_every_steps": 100}
    run(tmp_path, num_steps=6, step=step, logs=logs, **options)
    assert sorted(logs.written) == [1, 2, 3, 4, 5, 6]


def test_nan_names_the_step_the_metric_and_the_last_good_checkpoint(tmp_path):
    with pytest.raises(NonFiniteLossError) as caught:
        run(tmp_path, num_steps=20, poisoned={6})
    message = str(caught.value)
    assert "at step 6 loss is nan, loss/visual is nan" in message
    assert f"last good checkpoint is step 4 in {tmp_path}" in message


def test_nan_is_never_saved(tmp_path):
    with pytest.raises(NonFiniteLossError, match="checkpoint is step 4 "):
        run(tmp_path, num_steps=20, poisoned={8})
    assert [path.name for path in tmp_path.iterdir()] == ["4"]
    with pytest.raises(NonFiniteLossError, match="last good checkpoint is none"):
        run(tmp_path / "early", num_steps=20, poisoned={1})


def test_evaluation_runs_at_its_interval_and_at_the_end(tmp_path):
    seen = []

    def evaluate(state, step):
        assert int(state.step) == step
        seen.append(step)
        return {"accuracy/top1": 10.0 * step}

    options = {"evaluate": evaluate, "evaluate_every_steps": 3}
    _, logs = run(tmp_path, num_steps=7, **options)
    assert seen == [3, 6, 7]
    assert logs.written[6]["accuracy/top1"] == 60
    assert logs.written[6]["loss"] > 0


@pytest.mark.parametrize(
    ("number", "what", "code"),
    [(signal.SIGTERM, "SIGTERM", 75), (signal.SIGINT, "Ctrl-C", 130)],
)
def test_a_request_saves_and_the_next_run_goes_on(tmp_path, number, what, code):
    whole, _ = run(tmp_path / "whole", num_steps=10)
    compiled = jax.jit(step_fn)
    calls = itertools.count(1)

    def interrupted(state, batch):
        if next(calls) == 5:
            os.kill(os.getpid(), number)
        return compiled(state, batch)

    before = signal.getsignal(number)
    logs = Recorder()
    options = {"checkpoint_every_steps": 100, "step": interrupted, "logs": logs}
    with pytest.raises(Preempted) as caught:
        run(tmp_path / "stopped", num_steps=10, **options)
    assert (caught.value.code, caught.value.step) == (code, 5)
    assert logs.warnings == [
        f"stopped by {what}; step 5 is saved; the same command goes on from there"
    ]
    assert signal.getsignal(number) is before
    resumed, _ = run(tmp_path / "stopped", num_steps=10)
    assert_bit_equal(resumed, whole)


def train_briefly(directory, state, source, **steps):
    with Checkpoints(directory, every_steps=9) as checkpoints:
        return train(
            state,
            jax.jit(step_fn),
            source,
            checkpoints=checkpoints,
            logs=Recorder(),
            log_every_steps=1,
            images_per_step=8,
            **steps,
        )


def test_impossible_starts_and_short_data_are_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot train from step 3 to 5 .* of step 0"):
        train_briefly(tmp_path, new_state(), batches(), first_step=3, num_steps=5)
    with pytest.raises(ValueError, match="from step 0 to -1"):
        train_briefly(tmp_path, new_state(), batches(), first_step=0, num_steps=-1)
    with pytest.raises(ValueError, match="ended before step 3"):
        few = itertools.islice(batches(), 2)
        train_briefly(tmp_path, new_state(), few, first_step=0, num_steps=5)


def test_host_arrays_do_not_reach_the_step_unseen(tmp_path):
    """Without the transfer guard such a step trains, and stalls at each copy."""
    compiled = jax.jit(step_fn)

    def careless(state, batch):
        return compiled(state, {**batch, "image": np.asarray(batch["image"])})

    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device"):
        run(tmp_path, num_steps=1, step=careless)
