"""Paths of lists stay below the root, links are followed, files are bounded."""

import json
import os
from pathlib import Path

import pytest

from vl_ltr_jax.data import root as roots
from vl_ltr_jax.data.root import FileError, Listings, read_file
from vl_ltr_jax.data.sources import dataset, folders, inat18, lists
from vl_ltr_jax.data.sources.faults import ListError
from vl_ltr_jax.run import inputs as run_inputs
from worlds import checked_world

NO_TEXTS = dataset.Texts(absent=True)


@pytest.fixture
def root(tmp_path):
    return checked_world.write_inat(tmp_path / "world")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("../../etc/passwd", "data.root"),
        ("images/../../x.jpg", "data.root"),
        ("..", "data.root"),
        *((path, "no image") for path in ("/etc/passwd", "images")),
    ],
)
def test_paths_of_lists_and_json_stay_below_the_root(root, path, words):
    """Broken by: a path that is joined to the root and opened."""
    checked_world.set_row(root, f"{path} 1", 5)
    with pytest.raises(ListError, match=f"world_train.txt:5: .*{words}"):
        lists.read_image_list(root, "world", texts=NO_TEXTS)
    content = json.loads((root / "train2018.json").read_text())
    content["images"][4]["file_name"] = path
    (root / "train2018.json").write_text(json.dumps(content))
    with pytest.raises(ListError, match=f"image id 104: .*{words}"):
        inat18.read_inat18(root, texts=NO_TEXTS)


def test_links_are_followed_out_of_the_root(root, tmp_path):
    """Broken by: a farm of links to a shared disk that is refused."""
    for name in ("images", "wiki", "labels.txt", "world_val.txt"):
        (root / name).rename(tmp_path / name)
        (root / name).symlink_to(tmp_path / name)
    linked = root / "images/violin/train_1.jpg"
    linked.rename(tmp_path / "moved.jpg")
    linked.symlink_to(tmp_path / "moved.jpg")
    (tmp_path / "elsewhere").symlink_to(root)
    data = run_inputs.read_data(checked_world.config(tmp_path / "elsewhere"))
    assert data.train.read(7).size == (20, 16)
    assert data.class_texts[0].startswith("A tench")
    assert checked_world.look(root).findings == []


def test_loops_of_links_are_walked_once(root):
    """Broken by: `os.walk`, which goes on to 2 ** 40 folders of two links."""
    for split in ("train", "val"):
        (root / split).symlink_to("images")
    for name in ("a", "b"):
        (root / "images/acorn" / name).symlink_to(".")
    data = folders.read_image_folder(root, "x", texts=NO_TEXTS)
    assert data.train_counts.tolist() == [6] * 12


@pytest.mark.parametrize("name", [b"\xff", b"a\nb"])
def test_folders_with_names_that_no_file_can_hold_are_refused(tmp_path, name):
    """Broken by: half characters that end a run when it writes its report."""
    for split in ("train", "val"):
        folder = tmp_path / split / os.fsdecode(name)
        folder.mkdir(parents=True)
        checked_world.Image.new("RGB", (5, 4)).save(folder / "0.png")
    with pytest.raises(ValueError, match=str(tmp_path)):
        folders.read_image_folder(tmp_path, "x", texts=NO_TEXTS)


def test_pictures_with_names_that_are_not_utf8_are_refused(tmp_path):
    for split, name in (("train", b"0.png"), ("val", b"caf\xe9.png")):
        (tmp_path / split / "cat").mkdir(parents=True)
        path = tmp_path / split / "cat" / os.fsdecode(name)
        checked_world.Image.new("RGB", (5, 4)).save(path)
    with pytest.raises(ListError, match=r"caf\\udce9.png"):
        folders.read_image_folder(tmp_path, "x", texts=NO_TEXTS)
    checked = checked_world.look(tmp_path, source="image_folder", name="x")
    assert "path-not-utf8" in {finding.code for finding in checked.findings}


def test_files_are_read_up_to_a_size(tmp_path, monkeypatch):
    path = tmp_path / "x.txt"
    path.write_bytes(b"12345")
    monkeypatch.setattr(roots, "LARGEST_FILE", 5)
    assert read_file(path) == b"12345"
    path.write_bytes(b"123456")
    for faulty in (path, tmp_path, tmp_path / "absent"):
        with pytest.raises(FileError, match=str(faulty)) as raised:
            read_file(faulty)
        assert str(faulty) not in raised.value.reason


def test_a_directory_is_listed_once(root, monkeypatch):
    """Broken by: a look at each of 437,513 files."""
    scanned, scandir = [], os.scandir
    monkeypatch.setattr(
        os, "scandir", lambda path: scanned.append(Path(path)) or scandir(path)
    )
    listings = Listings(root)
    paths = [f"images/{name}" for name in ("tench/train_0.jpg", "tench/train_1.jpg")]
    missing = listings.missing([*paths, "images/tench", "images/x.jpg", "x\0/y.jpg"])
    assert missing.tolist() == [False, False, True, True, True]
    assert scanned.count(root / "images/tench") == 1
