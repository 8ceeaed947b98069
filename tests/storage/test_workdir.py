"""One workdir, one run."""

import fcntl
import os
import re
import threading
import time
from pathlib import Path

import pytest
from etils import epath

from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.run.inputs import RunInputs
from vl_ltr_jax.stages import pipeline
from vl_ltr_jax.storage import lock
from vl_ltr_jax.storage.lock import InUseError, leased, sole_user
from vl_ltr_jax.storage.workdir import WorkdirError, check_free, check_writable, path_of
from worlds.file_damage import full_disk


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.2)


def test_two_runs_in_one_workdir_are_refused(tmp_path):
    path = epath.Path(tmp_path)
    with sole_user(path):
        with pytest.raises(InUseError, match=f"another run .process {os.getpid()} "):
            with sole_user(path):
                pass
    with sole_user(path):
        assert not (tmp_path / ".owner").exists()  # the lock is enough


def test_with_a_lock_nobody_waits_for_what_a_run_without_has_left(tmp_path):
    """Breaks if the file of a dead run stays where processes but the first wait."""
    (tmp_path / ".owner").write_text('{"of": "process 1 on another", "beat": 7}')
    with sole_user(epath.Path(tmp_path)):
        assert not (tmp_path / ".owner").exists()


def test_without_locks_a_file_shows_that_a_run_lives(tmp_path, monkeypatch):
    """Breaks if a second run starts beside a living one, or leaves its file."""

    def no_locks(file, how):
        raise OSError("no locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    path = epath.Path(tmp_path)
    with sole_user(path):
        with pytest.raises(InUseError, match=f"process {os.getpid()} on"):
            with sole_user(path):
                pass
        assert (tmp_path / ".owner").exists()
    assert not (tmp_path / ".owner").exists()


def test_a_run_that_was_killed_does_not_stand_in_the_way(tmp_path):
    (tmp_path / ".owner").write_text('{"of": "process 1 on another", "beat": 7}')
    with leased(epath.Path(tmp_path)):
        assert f"process {os.getpid()}" in (tmp_path / ".owner").read_text()


def test_a_run_that_ends_meanwhile_does_not_either(tmp_path):
    owner = tmp_path / ".owner"
    owner.write_text('{"of": "process 1 on another", "beat": 7}')
    timer = threading.Timer(0.1, owner.unlink)
    timer.start()
    with leased(epath.Path(tmp_path)):
        timer.join()


def test_other_processes_wait_as_long_as_the_first(tmp_path, monkeypatch):
    """Breaks if they are in their first collective half a minute before it."""
    monkeypatch.setattr(lock.jax, "process_index", lambda: 1)
    owner, began = tmp_path / ".owner", time.monotonic()
    owner.write_text('{"of": "process 1 on another", "beat": 7}')
    with sole_user(epath.Path(tmp_path)):
        assert time.monotonic() - began >= 3 * lock.BEAT_SECONDS
    timer = threading.Timer(0.1, owner.write_text, ['{"of": "process 0 of this run"}'])
    timer.start()
    with sole_user(epath.Path(tmp_path)):
        timer.join()
    assert owner.read_text() == '{"of": "process 0 of this run"}'


def test_of_two_that_start_at_once_one_goes(tmp_path, monkeypatch):
    """The other writes its mark between our look and our second look."""
    sleep = lock.time.sleep

    def other_writes(seconds):
        sleep(seconds)
        (tmp_path / ".owner").write_text('{"of": "process 9 on another"}')

    monkeypatch.setattr(lock.time, "sleep", other_writes)
    with pytest.raises(InUseError, match="process 9 on another"):
        with leased(epath.Path(tmp_path)):
            pass


def test_a_run_that_was_taken_for_dead_writes_no_more(tmp_path, monkeypatch, capsys):
    """Its machine stood still, say, and its successor has begun."""
    ended = threading.Event()
    monkeypatch.setattr(lock.os, "_exit", lambda code: ended.set())
    with leased(epath.Path(tmp_path)):
        (tmp_path / ".owner").write_text('{"of": "process 9 on another"}')
        assert ended.wait(30)
    assert "was taken over by another run" in capsys.readouterr().err
    assert (tmp_path / ".owner").read_text() == '{"of": "process 9 on another"}'


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_a_lock_that_is_no_file_is_refused(tmp_path, make):
    make(tmp_path / ".lock")
    with pytest.raises(WorkdirError, match="lock is in the way of a file"):
        check_free(epath.Path(tmp_path), (), ())


def test_a_lock_that_cannot_be_opened_is_refused(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(WorkdirError, match="lock, by which .* cannot be opened: Is a"):
        with sole_user(epath.Path(tmp_path)):
            pass


def test_a_full_disk_is_refused_before_a_run_begins(tmp_path):
    with full_disk(), pytest.raises(WorkdirError, match="cannot be written: File too"):
        check_writable(epath.Path(tmp_path))
    assert not list(tmp_path.iterdir())
    with full_disk(size=0), pytest.raises(BlockingIOError):
        with sole_user(epath.Path(tmp_path)):  # the lock needs no room
            raise BlockingIOError  # of the run: not the lock's


def test_what_is_in_the_way_of_a_run_is_refused_before_it_begins(tmp_path, monkeypatch):
    """Breaks if hours of training end at a name that was taken all the time."""
    monkeypatch.setattr(
        pipeline, "planned", lambda config, inputs: ["pretrain", "embed"]
    )
    refused = {
        **dict.fromkeys(("config.json", "results.json", "report.html"), os.mkdir),
        **dict.fromkeys(("teacher", "pretrain/checkpoints", "embed"), Path.touch),
    }
    for name, make in refused.items():
        run = tmp_path / name.replace("/", "_")
        (run / name).parent.mkdir(parents=True)
        make(run / name)
        with pytest.raises(WorkdirError) as caught:
            pipeline.check(Config(), epath.Path(run), RunInputs.__new__(RunInputs))
        assert str(caught.value).startswith(f"{run / name} is in the way of a ")


@pytest.mark.parametrize(
    "given", ["foo://bar", "https://user:x@host/y", "file:///tmp/x", "a+b://c"]
)
def test_addresses_that_are_no_buckets_are_refused(given):
    with pytest.raises(WorkdirError, match=f"--workdir={re.escape(given)}: runs can"):
        path_of(given)
    assert os.fspath(path_of("gs://bucket/run")) == "gs://bucket/run"


def test_blanks_signs_and_accents_are_welcome_but_no_patterns():
    """Orbax loses checkpoints whose path it takes for a pattern."""
    assert os.fspath(path_of("runs/exp #1 100% ok \u00e9")).endswith("100% ok \u00e9")
    for given in ("runs/[a]", "runs/a*", "runs/a?"):
        with pytest.raises(WorkdirError, match="pattern"):
            path_of(given)
