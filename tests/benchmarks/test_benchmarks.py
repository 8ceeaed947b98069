"""Each benchmark runs small, and both of its sides compute the same."""

import os
import re

import numpy as np
import pytest

from vl_ltr_jax.benchmarks import anss as anss_benchmark
from vl_ltr_jax.benchmarks import evaluate as evaluate_benchmark
from vl_ltr_jax.benchmarks import lgr as lgr_benchmark
from vl_ltr_jax.benchmarks import paired, sentences, train_step
from vl_ltr_jax.models.clip import PRESETS


@pytest.fixture(autouse=True)
def small_ceilings(monkeypatch):
    monkeypatch.setattr(paired, "_MATRIX", 64)
    monkeypatch.setattr(paired, "_COPIED_BYTES", 2**16)


def test_anss_beside_pytorch(capsys):
    """Breaks when the two score by different formulas."""
    anss_benchmark.main(["--sentences=40", "--images=60", "--width=8", "--classes=3"])
    assert float(re.search(r"float64: (\S+)", capsys.readouterr().out)[1]) < 1e-5


def test_lgr_beside_pytorch(capsys):
    """Breaks when the two heads have different parameters."""
    sizes = ["--classes=5", "--anchors=3", "--width=8", "--batch_size=4"]
    # The process of the tests keeps its allocator: another test measures memory.
    lgr_benchmark.main([*sizes, "--rounds=1", "--allocator=glibc"])
    losses = re.search(r"losses: (\S+) and (\S+)", capsys.readouterr().out)
    ours, theirs = map(float, losses.groups())
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_sentences_beside_pytorch(capsys):
    """Breaks when a sentence is embedded, or differentiated, otherwise than alone."""
    sizes = ["--backbone=ViT-tiny", "--sentences=40", "--batch_size=16", "--rounds=1"]
    sentences.main(sizes)
    errors = re.findall(r"of the largest: (\S+)", capsys.readouterr().out)
    assert len(errors) == 2
    assert all(float(error) < 1e-5 for error in errors)


def test_sentences_are_as_long_as_wikipedias():
    config = PRESETS["ViT-B/16"]
    tokens = sentences.tokens_like_wikipedia(np.random.default_rng(0), 5000, config)
    lengths = tokens.argmax(axis=1) + 1
    assert (tokens[np.arange(5000), lengths - 1] == 49407).all()
    assert (tokens[:, 0] == 49406).all()
    assert 23 < lengths.mean() < 27
    assert lengths.max() == 77


def test_evaluation_beside_pytorch(capsys):
    """Breaks when votes are counted, or ties broken, otherwise than by the authors."""
    sizes = ["--images=64", "--batch_size=16", "--sentences=300", "--classes=20"]
    evaluate_benchmark.main([*sizes, "--width=64", "--rounds=1"])
    hits = re.findall(r"(\d+) hits of kNN, (\d+) of zero", capsys.readouterr().out)
    assert len(hits) == 2
    assert hits[0] == hits[1]
    assert all(5 < int(count) < 64 for count in hits[0])


def test_a_training_step_beside_pytorch(capfd, monkeypatch):
    """Breaks when the two sides lose, decay or learn otherwise: steps 1 and 2."""
    # Compiling for eight devices takes longer, and shows nothing more here.
    alone = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    monkeypatch.setenv("XLA_FLAGS", alone)
    sizes = ["--backbone=ViT-tiny", "--batch_size=8", "--rounds=1"]
    train_step.main([*sizes, "--parts"])
    losses = re.findall(r"losses of step \d: (\S+) and (\S+)", capfd.readouterr().out)
    assert len(losses) == 2 and losses[0] != losses[1]
    for ours, theirs in losses:
        assert float(ours) == pytest.approx(float(theirs), rel=1e-5)


def test_a_side_that_ends_is_named():
    with paired.Sides({"ours": ["-c", "print(1 / 0)"]}) as sides:
        with pytest.raises(paired.SideError, match="work"):
            sides.run("work", 1)


def test_memory_of_a_program_is_its_peak():
    """Breaks when memory that a program gives back is not counted."""

    def program():
        np.ones(2**23).sum()  # 64 MiB

    cost = paired.run({"ours": program}, 2)["ours"]
    array_bytes = 2**26
    assert abs(cost.peak_bytes / array_bytes - 1) < 0.1  # allocators keep some pages
    assert len(cost.seconds) == 2
