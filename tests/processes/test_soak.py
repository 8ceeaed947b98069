"""A run killed at delicate moments ends as an unbroken one."""

import random
import shutil

import numpy as np
import pytest

from processes import moments, same_bits, soak
from processes.watched_run import Job
from worlds import image_world

CONFIG = """
from pathlib import Path
from worlds import image_world

def get_config():
    return image_world.configure(Path({root!r}))
"""
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
    root = image_world.write(directory / "world")
    config = directory / "config.py"
    config.write_text(CONFIG.format(root=str(root)))
    job = Job(config, FLAGS, directory / "compiled", optimized=False)
    assert soak.finish(job, directory / "unbroken") == []
    return job


def test_a_killed_run_loses_nothing_and_leaves_nothing(job, tmp_path):
    """Breaks if anything depends on the clock, on threads or on the process.

    Kills come while a checkpoint is written, between stages, in the report, and by
    request in training and in evaluation.
    """
    unbroken, killed = job.config.parent / "unbroken", tmp_path / "killed"
    draw, resumed = random.Random(0), {}
    for moment, action in (
        (moments.saving("pretrain"), "KILL"),
        (moments.handing_over("pretrain"), "KILL"),
        (moments.step("finetune", 2), "TERM"),
        (moments.under_way("evaluate", after=1.0), "TERM"),
        (moments.page(), "KILL"),
    ):
        kill, run = soak.kill_at(job, killed, moment, action, draw)
        assert kill.faults == [] and kill.code is not None, (kill, run.lines)
        resumed |= soak.resumed_steps(run)
    assert soak.finish(job, killed) == []
    assert same_bits.leftovers(killed) == []
    assert list(same_bits.differences(unbroken, killed, resumed)) == []


def test_the_comparison_notices_lost_and_additional_files(job, tmp_path):
    unbroken, other = job.config.parent / "unbroken", tmp_path / "other"
    shutil.copytree(unbroken, other)
    (other / "embed" / "images.npy.partial").touch()
    (other / "teacher" / "added.txt").touch()
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
    for words in (
        "not there: report.md",
        "not in the unbroken run: teacher/added.txt",
        "differs: embed/images.npy",
        "arrays of checkpoint 8 differ",
        "finetune: events of loss/total",
    ):
        assert words in lines, lines
