"""Files, folders and patterns of a command, to picture files."""

import collections
import os

import pytest

from vl_ltr_jax.data.images import picture_folders
from vl_ltr_jax.recognizer.picture_files import find


@pytest.fixture
def folder(tmp_path):
    for name in (
        *("b.jpg", "a.PNG", "notes.txt", "more.txt", "Makefile", ".hidden.jpg"),
        *("sub/c.webp", "sub/deep/d.gif", ".git/e.jpg"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def list_files(name, folder):
    """Returns (path below the folder, error) of each file, and the counts."""
    left_out = collections.Counter()
    files = [
        (os.path.relpath(path, folder), error)
        for path, error in find(os.fspath(name), left_out)
    ]
    return files, dict(left_out)


def test_a_folder_gives_its_pictures_in_order_and_counts_other_files(folder):
    names = ["a.PNG", "b.jpg", "sub/c.webp", "sub/deep/d.gif"]
    files, left_out = list_files(folder, folder)
    assert files == [(name, "") for name in names]
    assert left_out == {"hidden": 2, "no suffix": 1, ".txt": 2}


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("notes.txt", ["notes.txt"]),  # a named file may have any suffix
        ("*.jpg", ["b.jpg"]),
        ("*", ["a.PNG", "b.jpg", "sub/c.webp", "sub/deep/d.gif"]),
        ("**", ["a.PNG", "b.jpg", "sub/c.webp", "sub/deep/d.gif"]),
        ("[ab].*", ["a.PNG", "b.jpg"]),
    ],
)
def test_patterns_that_no_shell_has_expanded(folder, pattern, names):
    assert list_files(folder / pattern, folder)[0] == [(name, "") for name in names]


@pytest.mark.parametrize("name", ["absent.jpg", "*.bmp", "sub/empty", "x" * 300])
def test_a_name_without_files_gives_a_reason(folder, name):
    (folder / "sub" / "empty").mkdir()
    ((path, error),) = find(f"{folder}/{name}", collections.Counter())
    assert path == f"{folder}/{name}" and error


def test_an_unreadable_folder_is_named_and_the_next_is_read(folder, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if path.endswith("sub"):
            raise PermissionError(13, "denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    files, _ = list_files(folder, folder)
    assert files == [("a.PNG", ""), ("b.jpg", ""), ("sub", "denied")]


def test_links_are_followed_and_never_in_a_circle(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "z.jpg").write_bytes(b"")
    (folder / "sub" / "round").symlink_to(folder)
    (folder / "sub" / "to_other").symlink_to(other)
    (folder / "sub" / "lost.jpg").symlink_to(folder / "absent")
    (folder / "sub" / "[c].png").write_bytes(b"")  # looks like a pattern
    files, _ = list_files(folder / "sub", folder)
    names = ["[c].png", "c.webp", "deep/d.gif", "lost.jpg"]
    names += ["round/a.PNG", "round/b.jpg", "to_other/z.jpg"]
    assert [name for name, _ in files] == [f"sub/{name}" for name in names]
    assert [name for name, error in files if error] == ["sub/lost.jpg"]
    assert list_files(folder / "sub/[c].png", folder)[0] == [("sub/[c].png", "")]


def test_a_pattern_leaves_out_the_files_that_a_folder_leaves_out(tmp_path):
    """Breaks if a pattern finds thumbnails that a folder has not."""
    for name in ("a/x.jpg", "a/@eaDir/x.jpg", "__MACOSX/x.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    for pattern in ("**", "**/*.jpg", "*/x.jpg", "*"):
        files, left_out = list_files(tmp_path / pattern, tmp_path)
        assert files == [("a/x.jpg", "")]
        assert set(left_out) <= {picture_folders.SYSTEM}
