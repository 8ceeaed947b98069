"""Where the time of a training step goes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vl_ltr_jax.checkpoint.manager import Checkpoints
from vl_ltr_jax.train import idle_time
from vl_ltr_jax.train import metrics as train_metrics
from vl_ltr_jax.train.loop import train
from worlds.loop_world import Recorder, State


class Hourglass:
    """A loop whose time is told: batches, steps, logs and saves last what they say."""

    def __init__(self, monkeypatch, *, data=0, step=0, log=0, checkpoint=0):
        self.now, self.free_at, self.step_seconds = 0.0, 0.0, step
        self.logs, self.checkpoints = SlowLogs(self, log), SlowSaves(self, checkpoint)
        self.data = data
        self.fetch = jax.device_get
        monkeypatch.setattr(train_metrics.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(
            idle_time, "_when_ready", lambda metrics: float(metrics["at"])
        )
        monkeypatch.setattr(jax, "device_get", self.device_get)

    def device_get(self, values):
        """Waits for the devices."""
        fetched = self.fetch(values)
        if isinstance(fetched, dict):
            self.now = max(self.now, float(fetched["at"]))
        return fetched

    def batches(self):
        while True:
            self.now += self.data
            yield {}

    def run_step(self, state, batch):
        self.free_at = max(self.free_at, self.now) + self.step_seconds
        return state, {"at": jax.device_put(np.float32(self.free_at))}


class SlowLogs(Recorder):
    def __init__(self, clock, seconds):
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def scalars(self, step, values):
        super().scalars(step, values)
        self.clock.now += self.seconds

    def progress(self, step, num_steps, values, **rates):
        pass


class SlowSaves(Checkpoints):
    def __init__(self, clock, seconds):
        self.clock, self.seconds = clock, seconds

    def due(self, step):
        return bool(self.seconds) and step % 4 == 0

    def reached_preemption(self, step):
        return False

    def save(self, step, state, meta=None):
        self.clock.now += self.seconds
        self.saved = step

    @property
    def latest_step(self):
        return self.saved

    def wait(self):
        pass


@pytest.mark.parametrize(
    ("seconds", "log_every_steps", "parts"),
    [
        # A batch that is made while a step runs costs nothing, nor does a log.
        ({"data": 1, "step": 3, "log": 1}, 2, {"step": 3000}),
        ({"data": 3, "step": 1}, 2, {"data": 2000, "step": 1000}),
        # The next step hides a second of each log.
        ({"step": 1, "log": 5}, 4, {"log": 1000, "step": 1000}),
        ({"step": 1, "checkpoint": 6}, 4, {"checkpoint": 1500, "step": 1000}),
    ],
)
def test_the_wall_time_of_a_step_is_split_by_what_the_devices_waited_for(
    monkeypatch, seconds, log_every_steps, parts
):
    told = Hourglass(monkeypatch, **seconds)
    state = State(jnp.int32(0), {}, {}, {})
    train(
        state,
        told.run_step,
        told.batches(),
        first_step=0,
        num_steps=14,
        checkpoints=told.checkpoints,
        logs=told.logs,
        log_every_steps=log_every_steps,
        images_per_step=8,
    )
    written = told.logs.written[12]
    found = {
        name.removeprefix("step_time/").removesuffix("_ms"): value
        for name, value in written.items()
        if name.startswith("step_time/")
    }
    assert found.keys() == {"data", "step", "log", "checkpoint"}
    assert sum(found.values()) == pytest.approx(
        1000 / written["throughput/steps_per_second"]
    )
    assert found == pytest.approx({**dict.fromkeys(found, 0.0), **parts})
