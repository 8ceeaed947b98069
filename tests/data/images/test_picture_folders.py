"""One reader of folders: training, the check and `predict` see the same pictures."""

import collections
import os

import pytest
from PIL import Image

from vl_ltr_jax.commands import check_data
from vl_ltr_jax.data.images import picture_folders
from vl_ltr_jax.data.sources import folders
from vl_ltr_jax.data.sources.dataset import Texts
from vl_ltr_jax.data.sources.faults import ListError
from vl_ltr_jax.recognizer import picture_files
from vl_ltr_jax.run import inputs as run_inputs
from worlds.checked_world import config, look

SYSTEM_FILES = (
    *(".ipynb_checkpoints/0-checkpoint.jpg", "__MACOSX/._0.jpg", "@eaDir/0.jpg/S.jpg"),
    *("._0.jpg", ".DS_Store", "Thumbs.db"),
)


def fill(root, *names):
    """Files by name; what is called as a picture is one."""
    for colour, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in picture_folders.SUFFIXES:
            Image.new("RGB", (9, 8), (colour, 0, 0)).save(path, "PNG")
        else:
            path.write_bytes(b"")
    return root


@pytest.mark.parametrize("other", SYSTEM_FILES)
def test_files_of_systems_are_left_out_by_all_readers(tmp_path, other):
    """Breaks when one of the readers takes it for a picture or a class."""
    root = tmp_path / "set"
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            fill(root / split, f"{name}/0.jpg", f"{name}/1.jfif", f"{name}/2.heic")
            fill(root / split / name, other)
        fill(root / split, other)
    data = folders.read_image_folder(root, "x", texts=Texts(absent=True))
    assert data.class_names == ("cat", "dog")
    assert data.train.labels.tolist() == data.val.labels.tolist() == [0, 0, 1, 1]
    counts = collections.Counter()
    paths = [path for path, _ in picture_files.find(os.fspath(root), counts)]
    splits = (data.train, data.val)
    assert paths == [str(split.path(i)) for split in splits for i in range(4)]
    assert data.left_out == counts
    assert counts[".heic"] == 4 and counts.total() == 4 + 6


def test_the_check_and_a_run_say_how_many_files_were_left_out(tmp_path, capfd):
    """Breaks when counts, shot groups and priors are silently of other data."""
    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            names = (f"{split}.png", "x.heic", "y.txt")
            fill(tmp_path / split / name, *names)
    fill(tmp_path / "train", "loose.png")
    chosen = config(tmp_path, source="image_folder", texts="none")
    checked = check_data.check_data(chosen)
    (fact,) = (fact for fact in checked.facts if "left out" in fact)
    assert "6 .heic" in fact and "6 .txt" in fact and "13 other files" in fact
    assert capfd.readouterr().err.count("left out") == 0
    run_inputs.read_data(chosen)
    assert fact in capfd.readouterr().err


def test_a_class_of_unread_files_alone_is_refused(tmp_path):
    fill(tmp_path / "train", "cat/0.png", "dog/0.png")
    fill(tmp_path / "val", "cat/0.png", "dog/0.heic")
    with pytest.raises(ListError, match="val/dog: .*1 .heic"):
        folders.read_image_folder(tmp_path, "x", texts=Texts(absent=True))
    checked = look(tmp_path, source="image_folder", texts="none")
    (finding,) = (f for f in checked.findings if f.code == "folder-unread")
    assert finding.severity == "error" and "1 .heic" in finding.offenders[0].note
