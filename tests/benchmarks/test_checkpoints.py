"""What a save costs is measured on real saves, and read from what runs have logged."""

import re

import jax
import pytest

from vl_ltr_jax.benchmarks import checkpoints, sentences
from vl_ltr_jax.logs.event_files import Logs
from vl_ltr_jax.models.clip import PRESETS, ClipConfig, TextConfig, VisionConfig
from vl_ltr_jax.runtime import cpu_memory


def test_saves_of_the_state_of_pretraining(monkeypatch, capsys):
    """Breaks when moments are not saved, or the first save, which compiles, is told."""
    towers = VisionConfig("vit", 16, 8, 1, 1, 8), TextConfig(8, 1, 1, vocab_size=16)
    monkeypatch.setitem(PRESETS, "ViT-tiny", ClipConfig(*towers, 8))
    size, saves = checkpoints.measure("ViT-tiny", 2, keep=1)
    params = sentences.random_variables(PRESETS["ViT-tiny"])["params"]
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert 3 * 4 * count < size < 3 * 4 * count + 100  # and counts of steps
    assert len(saves) == 2
    assert all(0 < seconds < 60 for save in saves for seconds in save)

    def measured(backbone, num_saves, keep):
        assert (backbone, num_saves, keep) == ("ViT-tiny", 3, 1)
        return size, [*saves, saves[0]._replace(blocking=1e3)]  # the median stays

    monkeypatch.setattr(checkpoints, "measure", measured)
    monkeypatch.setattr(cpu_memory, "keep", lambda: True)
    arguments = ["--backbone=ViT-tiny", "--saves=3", "--every_steps=10"]
    for seconds, code in ((1e3, 0), (1e-9, 1)):
        with pytest.raises(SystemExit, match=str(code)):
            checkpoints.main([*arguments, f"--step_seconds={seconds}"])
    told = capsys.readouterr().out
    assert len(re.findall("until training goes on", told)) == 6
    assert "s every 10 steps of 1000.000 s: 0.0" in told


def test_the_share_of_saves():
    assert checkpoints.share(2.0, 49, 2.0) == pytest.approx(0.02)


def write_run(workdir, stage, **milliseconds):
    (workdir / stage / "checkpoints").mkdir(parents=True)
    with Logs(workdir / stage) as logs:
        for step in (10, 20):
            logs.scalars(
                step, {f"step_time/{k}_ms": v for k, v in milliseconds.items()}
            )


def test_what_a_run_has_logged(tmp_path, capsys):
    write_run(tmp_path, "pretrain", data=1, log=2, checkpoint=1, step=96)
    write_run(tmp_path, "finetune", data=0, log=0, checkpoint=3, step=7)
    with pytest.raises(SystemExit, match="1"):
        checkpoints.main([f"--run={tmp_path}"])
    assert capsys.readouterr().out.splitlines() == [
        "finetune: 3.00 of 10.00 ms a step, 30.00% of the wall time",
        "pretrain: 1.00 of 100.00 ms a step, 1.00% of the wall time",
    ]


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--run=nowhere", "--run=nowhere holds no stage with event files"),
        ("--step_seconds=0", "--step_seconds=0 is not above 0"),
        ("--saves=0", "a number from 1 is needed, given '0'"),
    ],
)
def test_bad_arguments_are_named(capsys, argument, words):
    with pytest.raises(SystemExit, match="2"):
        checkpoints.main([argument])
    assert words in capsys.readouterr().err
