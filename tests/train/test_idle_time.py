"""Idle time of the devices, attributed to the host's work."""

import pytest

from vl_ltr_jax.train import idle_time
from worlds import loop_world


@pytest.mark.parametrize(
    ("wait", "step_seconds", "idle"),
    [
        (1.0, 3.0, 0.0),  # made while the step ran
        (3.0, 1.0, 2.0 * 4),  # each but the first outlasts its step by two seconds
        (2.0, 2.0, 0.0),
    ],
)
def test_only_waits_beyond_the_step_count(monkeypatch, wait, step_seconds, idle):
    """Breaks if waits are added up: a wait behind a running step costs nothing."""
    now = free_at = 0.0
    monkeypatch.setattr(idle_time.time, "perf_counter", lambda: now)
    monkeypatch.setattr(idle_time, "_when_ready", lambda ready_at: ready_at)
    measured = idle_time.IdleTime()
    for _ in range(5):
        with measured.during("data"):
            now += wait
        free_at = max(free_at, now) + step_seconds
        measured.start_step(free_at)
    now = free_at
    assert measured.seconds()["data"] == pytest.approx(idle)
    measured.close()


@pytest.mark.parametrize(
    ("stretches", "warns"),
    [
        ([(30.0, 9.0)], [False]),  # under ten seconds in all
        ([(30.0, 9.0), (30.0, 3.0), (30.0, 30.0)], [False, True, False]),  # once
        ([(1000.0, 150.0)], [False]),  # a small share
    ],
)
def test_a_warning_comes_once_when_data_is_the_bottleneck(stretches, warns):
    measured = idle_time.IdleTime()
    assert [bool(measured.warning(*stretch)) for stretch in stretches] == warns
    measured.close()


class SlowLoading:
    def metrics(self):
        return {"data/bad_images": 3.0}

    def explain(self):
        return "the work on images is decoding them 90%"


def test_the_loop_names_the_bottleneck(tmp_path, monkeypatch):
    monkeypatch.setattr(idle_time, "_WARNING_SECONDS", 0.0)
    monkeypatch.setattr(idle_time, "_WARNING_SHARE", 0.0)
    logs = loop_world.Recorder()
    loop_world.run(tmp_path, num_steps=8, logs=logs, loading=SlowLoading())
    assert logs.written[3]["data/bad_images"] == 3.0
    assert 0 <= logs.written[8]["throughput/waiting_for_data"] <= 1
    (warning,) = logs.warnings
    assert "decoding them 90%" in warning
