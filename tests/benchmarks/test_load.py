"""Training that does not end is told from training that ever needs more."""

import ctypes
import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from etils import epath

from vl_ltr_jax.benchmarks import growth, load
from vl_ltr_jax.commands import flags as commands_flags
from vl_ltr_jax.config import build as configs
from vl_ltr_jax.config import settings
from vl_ltr_jax.logs import console
from vl_ltr_jax.models.clip import PRESETS, ClipConfig, TextConfig, VisionConfig
from vl_ltr_jax.train import pretrain
from worlds import image_world


def made_up(**changes):
    """An hour of samples of a healthy process, or of one with something changed."""
    rng = np.random.default_rng(0)
    samples = []
    for number in range(720):
        saving, resting = number % 12 == 0, number % 12 == 1
        unused = 0 if resting else 20 * (number % 70) + 10 * number / 12
        sample = growth.Sample(
            seconds=60 + 5 * number,
            steps=40 * number,
            evaluations=number // 12,
            at_rest=int(resting),
            resident_mb=900 + unused + rng.normal(0, 5),
            anonymous_mb=600.0,
            file_mb=300.0,
            heap_mb=400.0,
            children_mb=200 + 600 * saving,
            children=2 + 2 * saving,
            open_files=20 + 3 * saving,
            threads=50 + 8 * saving,
            compilations=70,
            traces=300 + number,
            live_arrays=400,
            live_mb=30.0,
            python_blocks=2_000_000,
        )
        minutes = sample.seconds / 60
        new = {name: change(minutes) for name, change in changes.items()}
        more = {name: getattr(sample, name) + new[name] for name in new}
        samples.append(sample._replace(**more))
    return samples


def unmet(samples):
    return [f.told.split()[0] for f in growth.judge(samples) if not f.met]


def test_noise_and_saves_are_no_growth():
    assert unmet(made_up()) == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"resident_mb": lambda minutes: 5 * minutes}, "resident"),
        # Twelve minutes at the end, as after a rare event, still show over an hour.
        ({"resident_mb": lambda minutes: 10 * max(0, minutes - 48)}, "resident"),
        ({"children_mb": lambda minutes: 5 * minutes}, "memory"),
        ({"open_files": lambda minutes: int(minutes)}, "open"),
        ({"threads": lambda minutes: int(minutes > 45)}, "threads:"),
        ({"children": lambda minutes: int(minutes / 20)}, "children:"),
        ({"compilations": lambda minutes: int(minutes > 60.5)}, "1"),
    ],
)
def test_growth_is_found(changes, named):
    assert unmet(made_up(**changes)) == [named]


def test_a_moment_with_fewer_threads_or_more_is_no_growth():
    samples = made_up()
    samples[7] = samples[7]._replace(threads=samples[7].threads - 1)
    samples[-7] = samples[-7]._replace(threads=samples[-7].threads + 20)
    assert unmet(samples) == []


def test_less_is_no_growth():
    fewer = {
        name: lambda minutes: -int(minutes / 10) for name in ("threads", "children")
    }
    assert unmet(made_up(resident_mb=lambda minutes: -5 * minutes, **fewer)) == []


def test_a_slope_and_its_error():
    """Breaks when minutes are seconds, or the error is not that of numpy's own fit."""
    rng = np.random.default_rng(1)
    seconds = np.sort(rng.uniform(0, 3600, 50))
    values = 7 + 3 * seconds / 60 + rng.normal(0, 4, 50)
    found = growth.slope(seconds, values)
    fitted, covariance = np.polyfit(seconds / 60, values, 1, cov=True)
    assert found.per_minute == pytest.approx(fitted[0], rel=1e-9)
    assert found.standard_error == pytest.approx(covariance[0, 0] ** 0.5, rel=1e-9)


def test_few_samples_at_rest_say_nothing():
    with pytest.raises(ValueError, match="3 samples at rest after the warm-up say"):
        growth.judge(made_up()[:36])


def test_what_lies_unused_is_given_back_at_rest(tmp_path):
    """Breaks when a sample at rest has what freed blocks took.

    A block in use above them keeps them from the end of the heap.
    """
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    libc.malloc.argtypes = [ctypes.c_size_t]
    with growth.Meter(1e9, tmp_path / "samples.csv") as meter:
        blocks = [libc.malloc(2**16) for _ in range(2**10)]
        for block in blocks:
            ctypes.memset(block, 1, 2**16)
        meter.rest()
        for block in blocks[:-1]:
            libc.free(block)
        meter.rest()
        libc.free(blocks[-1])
    before, after = meter.samples
    assert before.at_rest == after.at_rest == 1
    assert before.resident_mb - after.resident_mb > 50
    assert len((tmp_path / "samples.csv").read_text().splitlines()) == 3


def test_training_is_watched_from_its_warm_up_to_its_end(tmp_path, monkeypatch):
    """With narrow towers and a step that learns nothing, which compile in seconds."""

    def step(frozen, state, batch):
        metrics = {"loss/total": jnp.mean(batch["label"])}
        return dataclasses.replace(state, step=state.step + 1), metrics

    monkeypatch.setattr(pretrain, "make_step", lambda *given, **more: step)
    towers = VisionConfig("vit", 16, 8, 1, 1, 8), TextConfig(8, 1, 1, vocab_size=4096)
    monkeypatch.setitem(PRESETS, "ViT-tiny", ClipConfig(*towers, 8))
    config = image_world.configure(image_world.write(tmp_path / "world"))
    config.init.clip, config.init.tokenizer = "", "tiny_clip"
    config.evaluate.zero_shot_text, config.evaluate.knn = "sentences", False
    config.pretrain.distillation = "none"
    times = load.Times(0.8, 0.5, 0.4, 0.1)
    path = tmp_path / "samples.csv"
    samples = load.measure(
        configs.from_config_dict(config), epath.Path(tmp_path / "run"), times, path
    )
    first, last = samples[0], samples[-1]
    assert first.seconds >= 0.5
    assert first.steps >= 4
    assert first.evaluations >= 1
    assert last.seconds - first.seconds >= 0.6
    assert last.steps >= first.steps
    assert first.compilations > 1
    assert 0 < first.live_mb < first.heap_mb < first.resident_mb
    assert first.resident_mb == pytest.approx(first.anonymous_mb + first.file_mb)
    assert min(first.open_files, first.threads) > 2
    saved = [path.name for path in (tmp_path / "run/pretrain/checkpoints").iterdir()]
    assert 4 <= max(map(int, saved)) <= last.steps
    rows = np.genfromtxt(path, delimiter=",", names=True)
    assert rows.dtype.names == growth.Sample._fields
    assert rows["seconds"][0] < 0.5 < first.seconds
    assert rows["seconds"][-1] == pytest.approx(last.seconds, rel=1e-6)
    assert growth.table(samples).count("\n") == len(growth.Sample._fields) - 1


def test_the_clock_sets_an_interval_of_steps():
    meter = growth.Meter(1e9)
    never, always = load._Interval(1e9, meter), load._Interval(0.0, meter)
    assert [step % never == 0 for step in range(1, 4)] == [False] * 3
    assert [step % always == 0 for step in range(1, 4)] == [True] * 3
    assert 3 % always == 0, "the same step is asked for a checkpoint and an evaluation"
    assert meter.steps == 3


def test_the_exit_code_tells_of_growth(monkeypatch, capsys):
    def ends_with(samples):
        monkeypatch.setattr(load, "measure", lambda *arguments: samples)
        load.run([])

    monkeypatch.setattr(console, "_quiet", False)  # is so again after the test
    monkeypatch.setattr(
        commands_flags, "checked_config", lambda command: settings.Config()
    )
    monkeypatch.setattr(load.compilation_cache, "write_to", lambda *arguments: None)
    with flagsaver.flagsaver():
        flags.FLAGS.mark_as_parsed()
        ends_with(made_up())
        assert "NOT MET" not in capsys.readouterr().out
        with pytest.raises(SystemExit, match="1"):
            ends_with(made_up(open_files=int))
    assert "NOT MET  open files: 22 at first, 72 at the end" in capsys.readouterr().out
