"""The training loop: resuming, logging, and steps that are not finite."""

import itertools
import os
import signal

import jax
import numpy as np
import pytest

from vl_ltr_jax.checkpoint.manager import Checkpoints
from vl_ltr_jax.runtime.preemption import Preempted
from vl_ltr_jax.train.non_finite import NonFiniteLossError
from worlds import loop_world
from worlds.loop_world import Recorder, assert_bit_equal, new_state, run, step_fn


def test_a_resumed_run_is_bit_equal_to_an_unbroken_one(tmp_path):
    complete, _ = run(tmp_path / "complete", num_steps=10)
    run(tmp_path / "parts", num_steps=6)
    resumed, logs = run(tmp_path / "parts", num_steps=10)
    assert_bit_equal(resumed, complete)
    assert min(logs.written) > 6
    with Checkpoints(tmp_path / "parts", every_steps=1) as checkpoints:
        assert checkpoints.restore_latest(new_state())[1] == {"starts": 2}
    finished, logs = run(tmp_path / "parts", num_steps=10)
    assert_bit_equal(finished, complete)
    assert not logs.written


def test_metrics_are_logged_at_the_interval_and_at_the_end(tmp_path):
    def rates(steps_per_second):
        return {"throughput/model_teraflops_per_second": 5 * steps_per_second}

    _, logs = run(tmp_path, num_steps=8, rates=rates)
    assert logs.progressed == [(3, 8), (6, 8), (8, 8)]
    assert sorted(logs.written) == [3, 6, 8]
    speed = ("steps_per_second", "images_per_second", "waiting_for_data")
    assert {name for name in logs.written[3] if not name.startswith("step_time/")} == {
        *("loss", "loss/visual", "throughput/model_teraflops_per_second"),
        *(f"throughput/{name}" for name in speed),
    }
    parts = [f"step_time/{p}_ms" for p in ("data", "step", "log", "checkpoint")]
    for written in logs.written.values():
        spent = [written[name] for name in parts]
        steps_per_second = written["throughput/steps_per_second"]
        assert min(spent) >= 0
        assert sum(spent) == pytest.approx(1000 / steps_per_second)
        rate = written["throughput/model_teraflops_per_second"]
        assert rate == 5 * steps_per_second
    eager = new_state()
    for step, batch in zip(range(1, 7), loop_world.batches(), strict=False):
        eager, metrics = step_fn(eager, batch)
        if step in logs.written:
            expected = float(metrics["loss"])
            assert logs.written[step]["loss"] == pytest.approx(expected, rel=1e-5)


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


@pytest.mark.parametrize(
    ("step", "saved"), [(1, "none"), (6, "step 4 in "), (8, "step 4 in ")]
)
def test_nan_stops_and_is_never_saved(tmp_path, step, saved):
    with pytest.raises(NonFiniteLossError, match=f"at step {step} .*is {saved}"):
        run(tmp_path, num_steps=20, poisoned={step})
    assert [path.name for path in tmp_path.iterdir()] == ["4"] * (step > 4)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)]
)
def test_a_signal_saves_and_the_next_run_resumes(tmp_path, number, code):
    complete, _ = run(tmp_path / "complete", num_steps=10)
    compiled = jax.jit(step_fn)
    calls = itertools.count(1)

    def interrupted(state, batch):
        if next(calls) == 5:
            os.kill(os.getpid(), number)
        return compiled(state, batch)

    before = signal.getsignal(number)
    logs = Recorder()
    options = {"checkpoint_every_steps": 100, "step": interrupted, "logs": logs}
    with pytest.raises(Preempted) as raised:
        run(tmp_path / "stopped", num_steps=10, **options)
    assert (raised.value.code, raised.value.step) == (code, 5)
    assert len(logs.warnings) == 1 and "step 5 is saved" in logs.warnings[0]
    assert signal.getsignal(number) is before
    resumed, _ = run(tmp_path / "stopped", num_steps=10)
    assert_bit_equal(resumed, complete)


def test_host_arrays_are_refused_in_a_step(tmp_path):
    """Without the transfer guard such a step trains, and stalls at each copy."""
    compiled = jax.jit(step_fn)

    def careless(state, batch):
        return compiled(state, {**batch, "image": np.asarray(batch["image"])})

    with pytest.raises(jax.errors.JaxRuntimeError, match="host-to-device"):
        run(tmp_path, num_steps=1, step=careless)
