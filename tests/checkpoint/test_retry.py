"""A disk that is full while a run trains."""

import contextlib
import os
import signal

import numpy as np
import pytest
from etils import epath

from vl_ltr_jax.checkpoint import retry
from vl_ltr_jax.checkpoint.manager import Checkpoints
from vl_ltr_jax.checkpoint.restore import CheckpointError
from vl_ltr_jax.data.batches.sampler import BatchDraw
from vl_ltr_jax.runtime.preemption import Preempted
from vl_ltr_jax.train.non_finite import NonFiniteLossError, NonFiniteSteps
from worlds import loop_world
from worlds.file_damage import full_disk
from worlds.loop_world import Recorder, assert_bit_equal, run


@pytest.fixture
def full_at(monkeypatch):
    """The disk is full when one of these steps is saved: so many times for each."""
    times = {}

    class FullNowAndThen(Checkpoints):
        def save(self, step, state, meta=None):
            full = times.get(step, 0) > 0
            times[step] = times.get(step, 0) - 1
            with full_disk() if full else contextlib.nullcontext():
                super().save(step, state, meta)
                super().wait()  # before the disk is emptied, or filled

    monkeypatch.setattr(loop_world, "Checkpoints", FullNowAndThen)
    return times


def test_training_goes_on_without_its_checkpoints_and_saves_when_it_can(
    tmp_path, full_at
):
    """Breaks if a failed save stops training, counts as saved, or leaves its files."""
    unbroken, _ = run(tmp_path / "unbroken", num_steps=18)
    full_at |= {4: 1, 8: 1, 16: 1}  # two in a row
    state, logs = run(tmp_path / "full", num_steps=18, max_failed_saves=3)
    assert_bit_equal(state, unbroken)
    assert len(logs.warnings) == 3
    assert all(str(tmp_path / "full") in warning for warning in logs.warnings)
    assert sorted(p.name for p in (tmp_path / "full").iterdir()) == ["12", "18"]


def test_late_files_of_a_failed_save_go_at_the_end(tmp_path, full_at):
    """Breaks if the files of a failed save are looked for only once."""

    class Late(Recorder):
        def warning(self, text):
            super().warning(text)
            (tmp_path / "4.orbax-checkpoint-tmp").mkdir()

    full_at |= {4: 1}
    run(tmp_path, num_steps=6, logs=Late())
    assert [path.name for path in tmp_path.iterdir()] == ["6"]


def test_training_stops_at_the_limit_of_failures_in_a_row(tmp_path, full_at):
    full_at |= {8: 1, 12: 1, 16: 1}
    logs = Recorder()
    with pytest.raises(CheckpointError, match="max_failed_saves=2"):
        run(tmp_path, num_steps=40, logs=logs, max_failed_saves=2)
    assert len(logs.warnings) == 1
    assert "step 4" in logs.warnings[0]
    assert [path.name for path in tmp_path.iterdir()] == ["4"]


def test_the_end_is_tried_until_it_is_saved(tmp_path, full_at, monkeypatch):
    monkeypatch.setattr(retry, "RETRY_SECONDS", 0.01)
    full_at |= {6: 3}
    _, logs = run(tmp_path, num_steps=6)
    waits = [text for text in logs.warnings if "trying again" in text]
    assert len(waits) == 2  # the first try is the loop's, at its last step
    assert sorted(path.name for path in tmp_path.iterdir()) == ["4", "6"]


def test_a_request_to_stop_ends_the_tries(tmp_path, full_at):
    """Breaks if a preempted machine waits for a disk until it is killed."""

    class Impatient(Recorder):
        def warning(self, text):
            super().warning(text)
            if "trying again" in text:
                os.kill(os.getpid(), signal.SIGTERM)

    full_at |= {6: 99}
    logs = Impatient()
    with pytest.raises(Preempted) as caught:
        run(tmp_path, num_steps=6, logs=logs)
    assert caught.value.code == 75
    assert "step 6" in logs.warnings[-1] and "4" in logs.warnings[-1]


def test_a_run_that_finds_no_checkpoints_directory_says_so(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(CheckpointError, match="/run/checkpoints"):
        Checkpoints(tmp_path / "run" / "checkpoints", every_steps=1)


def test_a_full_disk_costs_the_notes_of_a_non_finite_step(tmp_path):
    """Breaks if a full disk ends a run that skips, or hides what has stopped it."""
    draw = BatchDraw(np.arange(8), None)
    guard = NonFiniteSteps(epath.Path(tmp_path), lambda step: draw, max_skipped=1)
    with full_disk():
        message = guard.record(3, {"loss": float("nan")}, 2, "there")
        with pytest.raises(NonFiniteLossError, match="step_4.json"):
            guard.record(4, {"loss": float("nan")}, 2, "there")
    assert str(tmp_path / "non_finite" / "step_3.json") in message
