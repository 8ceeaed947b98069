"""Time that devices stand still for data: what a wait lasts beyond the step."""

import itertools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.train import idle_time, loop
from worlds import loop_world


class Device:
    """Outputs that are ready at a time, and a clock that moves when told."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(idle_time.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(idle_time, "_when_ready", lambda ready_at: ready_at)


@pytest.fixture
def device(monkeypatch):
    return Device(monkeypatch)


def steps(device, tempo, waits, step_seconds):
    """Starts a step after each wait; gives the idle seconds when all have ended."""
    free_at = 0.0
    for wait in waits:
        with tempo.at("data"):
            device.now += wait
        free_at = max(free_at, device.now) + step_seconds
        tempo.started(free_at)
    device.now = free_at
    tempo._watcher.shutdown(wait=True)
    return tempo.idle_seconds()["data"]


@pytest.mark.parametrize(
    ("wait", "step_seconds", "idle"),
    [
        (1.0, 3.0, 0.0),  # made while the step ran
        (3.0, 1.0, 2.0 * 4),  # each but the first outlasts its step by two seconds
        (2.0, 2.0, 0.0),
    ],
)
def test_only_what_outlasts_the_step_counts(device, wait, step_seconds, idle):
    """Broken by adding up waits: a wait behind a running step costs nothing."""
    tempo = idle_time.Pace()
    assert steps(device, tempo, [wait] * 5, step_seconds) == pytest.approx(idle)


def test_it_speaks_once_and_only_of_what_matters():
    tempo = idle_time.Pace()
    assert tempo.warning(30.0, 9.0) is None  # under ten seconds in all
    assert (
        tempo.warning(30.0, 3.0) == "the devices stood still for data 20% of the time"
    )
    assert tempo.warning(30.0, 30.0) is None
    busy = idle_time.Pace()
    assert busy.warning(1000.0, 150.0) is None


class Slow:
    """What a loader knows of itself."""

    def metrics(self):
        return {"data/bad_images": 3.0}

    def explain(self):
        return "the work on images is decoding them 90%"


def test_the_loop_names_the_bottleneck(tmp_path, monkeypatch):
    monkeypatch.setattr(idle_time, "_WORTH_TELLING_SECONDS", 0.0)
    monkeypatch.setattr(idle_time, "_WORTH_TELLING_SHARE", 0.0)
    logs = loop_world.Recorder()
    loop_world.run(tmp_path, num_steps=8, logs=logs, loading=Slow())
    assert logs.written[3]["data/bad_images"] == 3.0
    assert 0 <= logs.written[8]["throughput/waiting_for_data"] <= 1
    (warning,) = logs.warnings
    assert "stood still for data" in warning and "decoding them 90%" in warning
    assert isinstance(Slow(), loop.Loading)


def test_prefetched_batches_are_those_given_in_order():
    mesh = meshes.make_mesh()
    given = [{"x": np.full((8, 2), number)} for number in range(5)]
    ahead = threading.Event()

    def host_batches():
        yield given[0]
        ahead.set()
        yield from given[1:]

    found = meshes.prefetch(mesh, host_batches(), size=2)
    first = next(found)
    assert isinstance(first["x"], jax.Array)
    assert ahead.wait(60)  # the second is asked for before anyone needs it
    rest = [int(batch["x"][0, 0]) for batch in found]
    assert [int(first["x"][0, 0]), *rest] == list(range(5))


def test_an_error_of_the_loader_comes_when_its_batch_is_due():
    mesh = meshes.make_mesh()

    def host_batches():
        yield {"x": np.zeros((8, 2))}
        raise ValueError("no image")

    found = meshes.prefetch(mesh, host_batches())
    assert jnp.all(next(found)["x"] == 0)
    with pytest.raises(ValueError, match="no image"):
        next(found)


def test_endless_batches_are_left_without_waiting():
    mesh = meshes.make_mesh()
    endless = ({"x": np.zeros((8, 2))} for _ in itertools.count())
    found = meshes.prefetch(mesh, endless)
    next(found)
    found.close()
    assert next(found, None) is None
