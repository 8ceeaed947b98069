"""What a command is given, to files: folders, patterns, lists, and what is neither."""

import collections
import io
import os

import pytest

from vl_ltr_jax.data.images import picture_folders
from vl_ltr_jax.data.images.picture_folders import PictureFile
from vl_ltr_jax.recognizer import picture_files
from vl_ltr_jax.recognizer.picture_files import find, read_list


@pytest.fixture
def folder(tmp_path):
    for name in (
        *("b.jpg", "a.PNG", "notes.txt", "more.txt", "Makefile", ".hidden.jpg"),
        *("sub/c.webp", "sub/deep/d.gif", ".git/e.jpg"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def found_in(name, folder, **options):
    left_out = collections.Counter()
    paths = list(find(os.fspath(name), left_out, **options))
    told = [(os.path.relpath(path, folder), error) for path, error in paths]
    return told, dict(left_out)


def test_a_folder_gives_its_pictures_in_order_and_counts_the_rest(folder):
    told, left_out = found_in(folder, folder)
    names = ["a.PNG", "b.jpg", "sub/c.webp", "sub/deep/d.gif"]
    assert told == [(name, "") for name in names]
    assert left_out == {"hidden": 2, "no suffix": 1, ".txt": 2}


def test_a_file_that_is_named_may_have_any_suffix(folder):
    assert found_in(folder / "notes.txt", folder) == ([("notes.txt", "")], {})


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.jpg", ["b.jpg"]),
        ("*.txt", ["more.txt", "notes.txt"]),
        ("?.*", ["a.PNG", "b.jpg"]),
        ("*", ["a.PNG", "b.jpg", "sub/c.webp", "sub/deep/d.gif"]),
        ("**", ["a.PNG", "b.jpg", "sub/c.webp", "sub/deep/d.gif"]),
        ("**/*.gif", ["sub/deep/d.gif"]),
        ("[ab].*", ["a.PNG", "b.jpg"]),
    ],
)
def test_patterns_that_no_shell_has_expanded(folder, pattern, names):
    told, _ = found_in(folder / pattern, folder)
    assert told == [(name, "") for name in names]


def test_a_name_that_is_no_pattern_to_the_file_system_wins(folder):
    (folder / "[ab].jpg").write_bytes(b"")
    assert found_in(folder / "[ab].jpg", folder)[0] == [("[ab].jpg", "")]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("absent.jpg", "No such file"),
        ("*.bmp", "matches no picture"),
        ("sub/empty", "without a picture"),
        ("b.jpg/c.jpg", "Not a directory"),
        ("\0.jpg", "null"),
        ("x" * 300, "too long"),
    ],
)
def test_what_gives_no_file_says_why(folder, name, words):
    (folder / "sub" / "empty").mkdir()
    ((_, error),) = find(f"{folder}/{name}", collections.Counter())
    assert words in error


def test_a_device_is_no_picture():
    ((_, error),) = find("/dev/zero", collections.Counter())
    assert "device" in error


def test_a_pattern_reads_no_pipe_and_no_device_through_a_link(folder):
    os.mkfifo(folder / "pipe.bmp")
    (folder / "zero.bmp").symlink_to("/dev/zero")
    told, _ = found_in(folder / "*.bmp", folder)
    assert told == [("pipe.bmp", "no file"), ("zero.bmp", "no file")]


def test_a_folder_that_cannot_be_read_is_told_and_the_rest_goes_on(folder, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(picture_files.os, "scandir", refuse)
    told, _ = found_in(folder, folder)
    assert told == [("a.PNG", ""), ("b.jpg", ""), ("sub", "Permission denied")]


def test_links_are_followed_and_never_in_a_circle(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "z.jpg").write_bytes(b"")
    (folder / "sub" / "round").symlink_to(folder)
    (folder / "sub" / "to_other").symlink_to(other)
    (folder / "sub" / "lost.jpg").symlink_to(folder / "absent")
    os.mkfifo(folder / "sub" / "pipe.jpg")  # would be waited for
    told, _ = found_in(folder / "sub", folder)
    assert told == [
        ("sub/c.webp", ""),
        ("sub/deep/d.gif", ""),
        ("sub/lost.jpg", "no file"),
        ("sub/pipe.jpg", "no file"),
        *((f"sub/round/{name}", "") for name in ("a.PNG", "b.jpg")),
        ("sub/to_other/z.jpg", ""),
    ]


def test_a_deep_folder_is_no_deep_recursion(tmp_path):
    path = tmp_path
    for _ in range(300):
        path = path / "a"
    path.mkdir(parents=True)
    (path / "b.jpg").write_bytes(b"")
    assert list(find(str(tmp_path), collections.Counter())) == [
        PictureFile(str(path / "b.jpg"))
    ]


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"a.jpg\nb c.jpg\n", ["a.jpg", "b c.jpg"]),
        (b"a.jpg\r\n\r\n\nb.jpg", ["a.jpg", "b.jpg"]),
        (b"a\nb.jpg\0c.jpg\0", ["a\nb.jpg", "c.jpg"]),
        (b"\xff.jpg", [os.fsdecode(b"\xff.jpg")]),
        (b"", []),
        (b"\n\n", []),
    ],
)
@pytest.mark.parametrize("block", [1 << 16, 9])
def test_lists_of_lines_and_of_nuls(monkeypatch, content, names, block):
    monkeypatch.setattr(picture_files, "_BLOCK", block)
    assert list(read_list(io.BytesIO(content).read)) == names


def test_a_list_is_read_as_it_arrives():
    read_end, write_end = os.pipe()
    with open(read_end, "rb") as stream:
        paths = read_list(stream.read1)
        os.write(write_end, b"a.jpg\nb.j")
        assert next(paths) == "a.jpg"
        os.write(write_end, b"pg\n")
        assert next(paths) == "b.jpg"
        os.close(write_end)
        assert next(paths, None) is None


def test_a_pattern_leaves_out_what_a_folder_does(tmp_path):
    """Breaks if a pattern finds thumbnails that a folder has not."""
    for name in ("a/x.jpg", "a/@eaDir/x.jpg", "__MACOSX/x.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    for pattern in ("**", "**/*.jpg", "*/x.jpg", "*"):
        paths, left_out = found_in(tmp_path / pattern, tmp_path)
        assert paths == [("a/x.jpg", "")]
        assert set(left_out) <= {picture_folders.SYSTEM}
