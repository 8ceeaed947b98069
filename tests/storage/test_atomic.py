"""Files appear complete, and once: kills, faults, and several writers."""

import contextlib
import os

import pytest

from vl_ltr_jax.storage import atomic
from vl_ltr_jax.storage.atomic import DestinationError


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("fault", [None, OSError, KeyboardInterrupt])
def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path, shared, fault):
    path = tmp_path / "a.txt"
    if fault:
        path.write_bytes(b"old")
    with contextlib.suppress(OSError, KeyboardInterrupt):
        with atomic.write(path, shared=shared) as file:
            file.write(b"half, ")
            file.flush()
            assert path.exists() == bool(fault)
            if fault:
                raise fault
            file.write(b"and complete")
    assert os.listdir(tmp_path) == ["a.txt"]
    assert path.read_bytes() == (b"old" if fault else b"half, and complete")


def test_of_writers_of_the_same_content_the_first_stays(tmp_path):
    """Breaks if the file that others have mapped loses its inode."""
    path = tmp_path / "a.txt"
    with atomic.write(path, shared=True) as slow:
        slow.write(b"same")
        with atomic.write(path, shared=True) as fast:
            fast.write(b"same")
        inode = path.stat().st_ino
    assert (path.read_bytes(), path.stat().st_ino) == (b"same", inode)
    assert os.listdir(tmp_path) == ["a.txt"]


def test_writers_of_other_contents_do_not_mix_and_the_last_stays(tmp_path):
    """Breaks if they share a partial file."""
    path = tmp_path / "a.txt"
    with atomic.write(path) as slow:
        slow.write(b"slow, ")
        slow.flush()
        with atomic.write(path) as fast:
            fast.write(b"fast")
        assert path.read_bytes() == b"fast"
        slow.write(b"and complete")
    assert path.read_bytes() == b"slow, and complete"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_directory_is_complete_or_absent(tmp_path):
    """Breaks if a fault leaves a part, or a directory in use is filled."""
    target = tmp_path / "made"

    def fill(partial):
        (partial / "file").write_bytes(b"")
        assert not target.exists()

    def fail(partial):
        raise OSError

    with pytest.raises(OSError):
        atomic.write_directory(target, fail)
    assert os.listdir(tmp_path) == []
    assert atomic.write_directory(target, fill) == target
    assert (os.listdir(tmp_path), os.listdir(target)) == (["made"], ["file"])
    with pytest.raises(DestinationError, match="made"):
        atomic.write_directory(target, fill)
