"""The parts of a training step's wall time."""

from unittest import mock

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
    """A clock that batches, steps, logs and saves move by a number of seconds."""

    def __init__(self, monkeypatch, *, data=0, step=0, log=0, checkpoint=0):
        self.now = self.free_at = 0.0
        self.data, self.step = data, step
        self.logs, self.fetch = SlowLogs(self, log), jax.device_get
        self.checkpoints = mock.create_autospec(Checkpoints, instance=True)
        self.checkpoints.due = lambda step: bool(checkpoint) and step % 4 == 0
        self.checkpoints.reached_preemption.return_value = False
        self.checkpoints.save.side_effect = lambda *_, **__: self.spend(checkpoint)
        self.checkpoints.latest_step = 14
        monkeypatch.setattr(train_metrics.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(idle_time, "_when_ready", lambda end: float(end["at"]))
        monkeypatch.setattr(jax, "device_get", self.device_get)

    def spend(self, seconds):
        self.now += seconds

    def device_get(self, values):
        """Waits for the devices."""
        fetched = self.fetch(values)
        self.now = max(self.now, float(fetched["at"]))
        return fetched

    def batches(self):
        while True:
            self.spend(self.data)
            yield {}

    def run_step(self, state, batch):
        self.free_at = max(self.free_at, self.now) + self.step
        return state, {"at": jax.device_put(np.float32(self.free_at))}


class SlowLogs(Recorder):
    def __init__(self, clock, seconds):
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def scalars(self, step, values):
        super().scalars(step, values)
        self.clock.spend(self.seconds)

    def progress(self, step, num_steps, values, **rates):
        pass


@pytest.mark.parametrize(
    ("seconds", "log_every_steps", "parts"),
    [
        # A batch behind a running step costs nothing, nor does a log.
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
    hourglass = Hourglass(monkeypatch, **seconds)
    train(
        State(jnp.int32(0), {}, {}, {}),
        hourglass.run_step,
        hourglass.batches(),
        train_metrics.Span(0, 14, 8, log_every_steps),
        checkpoints=hourglass.checkpoints,
        logs=hourglass.logs,
    )
    written = hourglass.logs.written[12]
    spent = {
        name.removeprefix("step_time/").removesuffix("_ms"): value
        for name, value in written.items()
        if name.startswith("step_time/")
    }
    assert spent.keys() == {"data", "step", "log", "checkpoint"}
    steps_per_second = written["throughput/steps_per_second"]
    assert sum(spent.values()) == pytest.approx(1000 / steps_per_second)
    assert spent == pytest.approx({**dict.fromkeys(spent, 0.0), **parts})
