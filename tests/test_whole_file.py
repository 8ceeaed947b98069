"""Files appear whole, and once: kills, faults, and several writers."""

import os

import pytest

from vl_ltr_jax import whole_file


def write(path, content, **options):
    with whole_file.write(path, **options) as file:
        file.write(content)


@pytest.mark.parametrize("shared", [False, True])
def test_nothing_has_the_name_before_it_is_whole(tmp_path, shared):
    path = tmp_path / "a.txt"
    with whole_file.write(path, shared=shared) as file:
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
    with pytest.raises(fault), whole_file.write(path, shared=shared) as file:
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
    with whole_file.write(path, shared=True) as slow:
        slow.write(b"same")
        write(path, b"same", shared=True)
        inode = path.stat().st_ino
    assert path.read_bytes() == b"same"
    assert (path.stat().st_ino == inode) == links
    assert os.listdir(tmp_path) == ["a.txt"]


def test_writers_of_their_own_contents_do_not_mix_and_the_last_stays(tmp_path):
    """Breaks if they share a partial file, or if a file that is there stays."""
    path = tmp_path / "a.txt"
    with whole_file.write(path, own_partial=True) as slow:
        slow.write(b"slow, ")
        slow.flush()
        write(path, b"fast", own_partial=True)
        assert path.read_bytes() == b"fast"
        slow.write(b"and whole")
    assert path.read_bytes() == b"slow, and whole"
    assert os.listdir(tmp_path) == ["a.txt"]
