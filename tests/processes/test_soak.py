"""A run killed at delicate moments ends as an unbroken one."""

import os
import random
import shutil

import numpy as np
import pytest

from processes import same_bits, soak
from processes.soak import Kill
from processes.watched_run import Job
from worlds import image_world

FLAGS = (
    "--config.pretrain.epochs=2",
    "--config.finetune.epochs=2",
    "--config.finetune.feature_views=1",
    "--config.log.checkpoint_every_steps=4",
    "--config.evaluate.knn=False",
)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Makes the unbroken run, in the directory of the configuration."""
    directory = tmp_path_factory.mktemp("soak")
    config = image_world.write_config(directory)
    job = Job(config, FLAGS, directory / "compiled", os.environ["XLA_FLAGS"])
    assert soak.finish(job, directory / "unbroken") == []
    return job


def test_a_killed_run_loses_nothing_and_leaves_nothing(job, tmp_path):
    """Breaks if anything depends on the clock, on threads or on the process.

    Kills come while a checkpoint is written, in the report, and by request in
    training and in evaluation.
    """
    unbroken, killed = job.config.parent / "unbroken", tmp_path / "killed"
    for kill in (
        Kill("pretrain", "checkpoint", "KILL", after=0.02),
        Kill("finetune", "steps", "TERM"),
        Kill("evaluate", "start", "TERM", after=1.0),
        Kill("report", "page", "KILL"),
    ):
        assert soak.make(job, killed, kill, random.Random(0)) == [], kill
    assert soak.finish(job, killed) == []
    assert same_bits.leftovers(killed) == []
    assert list(same_bits.differences(unbroken, killed)) == []


def test_the_comparison_notices_each_difference(job, tmp_path):
    unbroken, other = job.config.parent / "unbroken", tmp_path / "other"
    shutil.copytree(unbroken, other)
    (other / "embed" / "images.npy.partial").touch()
    (other / "report.md").unlink()
    images = np.load(other / "embed" / "images.npy")
    images[0, 0] = np.nextafter(images[0, 0], 2)
    np.save(other / "embed" / "images.npy", images)
    checkpoints = other / "pretrain" / "checkpoints"
    shutil.rmtree(checkpoints / "8")
    shutil.copytree(checkpoints / "4", checkpoints / "8")
    [events] = (other / "finetune").glob("events.*")
    events.unlink()
    assert len(same_bits.leftovers(other)) == 1
    lines = "\n".join(same_bits.differences(unbroken, other))
    for words in ("report.md", "images.npy", "checkpoint 8", "loss/total"):
        assert words in lines, lines
