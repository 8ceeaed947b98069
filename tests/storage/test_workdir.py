"""One workdir, one run."""

import fcntl
import os
from pathlib import Path
from unittest import mock

import pytest
from etils import epath

from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.run.inputs import RunInputs
from vl_ltr_jax.stages import pipeline
from vl_ltr_jax.storage.lock import InUseError, sole_user, take_over
from vl_ltr_jax.storage.workdir import WorkdirError, check_writable, path_of
from worlds.file_damage import full_disk


def start(path):
    with sole_user(path):
        pass


def test_two_runs_in_one_workdir_are_refused(tmp_path):
    """Breaks if --take_over ends a lock that the system keeps, or its owner's name."""
    path = epath.Path(tmp_path)
    with sole_user(path):
        take_over(path)
        with pytest.raises(InUseError, match=rf"{tmp_path}.*process {os.getpid()} "):
            start(path)
    start(path)  # the file stays, the lock is gone


def test_without_locks_a_killed_run_refuses_others_until_they_take_over(
    tmp_path, monkeypatch
):
    """Breaks if a second run starts, or a run that has ended stands in the way."""

    monkeypatch.setattr(fcntl, "flock", mock.Mock(side_effect=OSError("no locks")))
    path = epath.Path(tmp_path)
    with sole_user(path):
        owner = (tmp_path / ".lock").read_text()
        assert str(os.getpid()) in owner
        with pytest.raises(WorkdirError, match="--take_over") as refused:
            start(path)
        assert refused.value.exit_code == 2  # launchers do not try again
    start(path)
    (tmp_path / ".lock").write_text(owner)
    take_over(path)
    start(path)


def test_partial_files_of_a_killed_run_go(tmp_path):
    for name in ("a", "teacher/b", "finetune/views/c", "pretrain/checkpoints/4/d"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.npy.partial").touch()
        (tmp_path / f"{name}.npy").touch()
    start(epath.Path(tmp_path))
    partial = [path.name for path in tmp_path.rglob("*.partial")]
    assert partial == ["d.npy.partial"]  # Orbax's own
    assert len(list(tmp_path.rglob("*.npy"))) == 4


def test_a_full_disk_is_refused_before_a_run_begins(tmp_path):
    with full_disk(), pytest.raises(WorkdirError, match="--workdir"):
        check_writable(epath.Path(tmp_path))
    with full_disk(size=0):
        start(epath.Path(tmp_path))  # the lock needs no room


def test_obstacles_of_a_run_are_refused_before_it_begins(tmp_path, monkeypatch):
    """Breaks if hours of training end at a name that was taken all the time."""
    monkeypatch.setattr(
        pipeline, "planned", lambda config, inputs: ["pretrain", "embed"]
    )
    obstacles = {
        "config.json": os.mkdir,
        "pretrain/checkpoints": Path.touch,
        "embed": Path.touch,
    }
    for name, make in obstacles.items():
        run = tmp_path / name.replace("/", "_")
        (run / name).parent.mkdir(parents=True)
        make(run / name)
        with pytest.raises(WorkdirError, match=str(run / name)):
            pipeline.check(Config(), epath.Path(run), RunInputs.__new__(RunInputs))


@pytest.mark.parametrize(
    "name",  # Orbax loses checkpoints in patterns
    ["foo://bar", "https://user:x@host/y", "file:///x", "runs/[a]", "runs/a*"],
)
def test_addresses_and_patterns_are_refused(name):
    with pytest.raises(WorkdirError, match="--workdir="):
        path_of(name)
    for welcome in ("gs://bucket/run", "runs/exp #1 100% ok \u00e9"):
        assert os.fspath(path_of(welcome)) == welcome
