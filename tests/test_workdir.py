"""One workdir, one run."""

import fcntl
import os
import threading

import pytest
from etils import epath

from vl_ltr_jax import workdir
from vl_ltr_jax.workdir import WorkdirError, leased, sole_user


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(workdir, "BEAT_SECONDS", 0.2)


def test_two_runs_in_one_workdir_are_refused(tmp_path):
    path = epath.Path(tmp_path)
    with sole_user(path):
        with pytest.raises(WorkdirError, match=f"another run .process {os.getpid()} "):
            with sole_user(path):
                pass
    with sole_user(path):
        assert not (tmp_path / ".owner").exists()  # the lock is enough


def test_without_locks_a_file_shows_that_a_run_lives(tmp_path, monkeypatch):
    """Breaks if a second run starts beside a living one, or leaves its file."""

    def no_locks(file, how):
        raise OSError("no locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    path = epath.Path(tmp_path)
    with sole_user(path):
        with pytest.raises(WorkdirError, match=f"process {os.getpid()} on"):
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


def test_of_two_that_start_at_once_one_goes(tmp_path, monkeypatch):
    """The other writes its mark between our look and our second look."""
    sleep = workdir.time.sleep

    def other_writes(seconds):
        sleep(seconds)
        (tmp_path / ".owner").write_text('{"of": "process 9 on another"}')

    monkeypatch.setattr(workdir.time, "sleep", other_writes)
    with pytest.raises(WorkdirError, match="process 9 on another"):
        with leased(epath.Path(tmp_path)):
            pass


def test_a_run_that_was_taken_for_dead_writes_no_more(tmp_path, monkeypatch, capsys):
    """Its machine stood still, say, and its successor has begun."""
    ended = threading.Event()
    monkeypatch.setattr(workdir.os, "_exit", lambda code: ended.set())
    with leased(epath.Path(tmp_path)):
        (tmp_path / ".owner").write_text('{"of": "process 9 on another"}')
        assert ended.wait(30)
    assert "was taken over by another run" in capsys.readouterr().err
    assert (tmp_path / ".owner").read_text() == '{"of": "process 9 on another"}'
