"""Files appear whole, and once: kills, faults, and several writers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vl_ltr_jax.storage import atomic

ROOT = Path(__file__).parents[2]


def write(path, content, **options):
    with atomic.write(path, **options) as file:
        file.write(content)


@pytest.mark.parametrize("shared", [False, True])
def test_nothing_has_the_name_before_it_is_whole(tmp_path, shared):
    path = tmp_path / "a.txt"
    with atomic.write(path, shared=shared) as file:
        file.write(b"half")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == b"half"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("fault", [OSError, KeyboardInterrupt])
def test_a_fault_leaves_what_was_there_and_nothing_else(tmp_path, shared, fault):
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    with pytest.raises(fault), atomic.write(path, shared=shared) as file:
        file.write(b"half")
        raise fault
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_one_writer_replaces_and_takes_over_what_a_kill_left(tmp_path):
    """Names of their own would pile up, a gigabyte for each kill."""
    path = tmp_path / "a.txt"
    (tmp_path / "a.txt.partial").write_bytes(b"left by a kill, and longer")
    write(path, b"old")
    write(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("links", [True, False])
def test_of_several_writers_the_first_stays(tmp_path, monkeypatch, links):
    """Where there are hard links, the file that others have mapped keeps its inode."""
    if not links:
        monkeypatch.setattr(os, "link", lambda *paths: os.stat("/no such place"))
    path = tmp_path / "a.txt"
    with atomic.write(path, shared=True) as slow:
        slow.write(b"same")
        write(path, b"same", shared=True)
        inode = path.stat().st_ino
    assert path.read_bytes() == b"same"
    assert (path.stat().st_ino == inode) == links
    assert os.listdir(tmp_path) == ["a.txt"]


def test_writers_of_their_own_contents_do_not_mix_and_the_last_stays(tmp_path):
    """Breaks if they share a partial file, or if a file that is there stays."""
    path = tmp_path / "a.txt"
    with atomic.write(path, own_partial=True) as slow:
        slow.write(b"slow, ")
        slow.flush()
        write(path, b"fast", own_partial=True)
        assert path.read_bytes() == b"fast"
        slow.write(b"and whole")
    assert path.read_bytes() == b"slow, and whole"
    assert os.listdir(tmp_path) == ["a.txt"]


def kill_while_writing(path, *, how="write"):
    """Leaves what a killed process leaves."""
    name = "write_directory" if how == "directory" else "write"
    options = "" if how == "directory" else ", own_partial=True"
    code = (
        "import os, pathlib, signal\n"
        "from vl_ltr_jax.storage import atomic\n"
        f"with atomic.{name}(pathlib.Path({str(path)!r}){options}):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)


@pytest.mark.parametrize("kind", ["own_partial", "shared"])
def test_what_a_kill_left_goes_and_what_is_alive_stays(tmp_path, kind):
    """Breaks if the lock is not held until the file has its name, or is not looked
    at: then the dead stay, or the living lose their file."""
    path, other = tmp_path / "a.txt", tmp_path / f"a.txt.b.{'0' * 32}.partial"
    other.write_bytes(b"of another file")
    kill_while_writing(path)
    assert len(os.listdir(tmp_path)) == 2
    with atomic.write(path, own_partial=True) as alive:
        write(path, b"fast", **{kind: True})
        assert len(os.listdir(tmp_path)) == 3
        alive.write(b"slow")
    assert path.read_bytes() == b"slow"
    assert sorted(os.listdir(tmp_path)) == ["a.txt", other.name]


def test_a_directory_is_whole_or_absent_and_the_dead_ones_go(tmp_path):
    made = tmp_path / "made"
    kill_while_writing(made, how="directory")
    assert len(os.listdir(tmp_path)) == 1
    with pytest.raises(OSError), atomic.write_directory(made) as partial:
        raise OSError
    assert os.listdir(tmp_path) == []
    with atomic.write_directory(made) as partial:
        (partial / "file").write_bytes(b"")
        with atomic.write_directory(made):
            pass
        assert os.listdir(partial) == ["file"]
    assert os.listdir(tmp_path) == ["made"] and os.listdir(made) == ["file"]
