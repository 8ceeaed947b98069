"""Image folders: the class of each folder, and errors that name each fault."""

import pytest

from vl_ltr_jax.data.sources import folders
from vl_ltr_jax.data.sources.dataset import Texts
from vl_ltr_jax.data.sources.faults import Faults, ListError
from vl_ltr_jax.run import inputs as run_inputs
from worlds.checked_world import config
from worlds.sound_images import picture

NO_TEXTS = Texts(absent=True)


def fill(root, **splits):
    """Pictures in ROOT/SPLIT/CLASS, by a dictionary of counts."""
    for split, counts in splits.items():
        for name, count in counts.items():
            for number in range(count):
                picture(root / split / name / f"{number}.PNG")
    return root


def read(root, layout="plain", texts=NO_TEXTS):
    return folders.read_image_folder(root, "pets", layout, texts=texts)


def test_names_are_alphabetical_without_a_label_file(tmp_path):
    dogs = {"dog": 1, "dog/old": 1}
    fill(tmp_path, train={**dogs, "black_cat": 3}, val={"dog": 1}, test={"dog": 1})
    (tmp_path / "train/dog/notes.txt").write_text("no picture")
    (tmp_path / "train/readme.md").write_text("no class")
    data = read(tmp_path)
    assert data.class_names == ("black cat", "dog")
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1]
    assert data.val.labels.tolist() == data.test.labels.tolist() == [1]
    assert data.class_texts == ("", "")
    assert data.train.read(3).size == (24, 20)
    assert "dog/old/0.PNG" in data.train.describe(4)
    assert data.train.describe(0).startswith(f"{tmp_path}/train/black_cat/0.PNG")


def test_labels_txt_gives_the_class_of_a_folder(tmp_path):
    """Alphabetical order would make black_cat class 0, and ignore its text."""
    fill(tmp_path, train={"dog": 1, "black_cat": 2}, val={"black_cat": 1})
    (tmp_path / "labels.txt").write_text("dog 0\nblack_cat 1\nbird 2\n")
    (tmp_path / "wiki").mkdir()
    for label, text in enumerate(("Dogs bark.", "Cats purr.", "Birds sing.")):
        (tmp_path / "wiki" / f"desc_{label}.txt").write_text(text)
    data = read(tmp_path, texts=Texts())
    assert data.class_names == ("dog", "black cat", "bird")
    assert data.train.labels.tolist() == [1, 1, 0]
    assert data.train_counts.tolist() == [1, 2, 0]
    assert data.class_texts[1] == "Cats purr."
    assert data.test.labels.tolist() == [1]  # no test folder: the validation


def test_folders_named_by_number_keep_their_number(tmp_path):
    """The trap of iNaturalist: as strings, 10 comes before 2."""
    fill(
        tmp_path,
        train={str(number): 1 for number in range(12)},
        validation={f"{number:04}": 1 for number in (2, 10)},
    )
    rows = "".join(f"kind{number} {number}\n" for number in range(12))
    (tmp_path / "labels.txt").write_text(rows)
    data = read(tmp_path)
    names = [data.train.describe(index).split("/")[-2] for index in range(12)]
    assert data.train.labels.tolist() == [int(name) for name in names]
    assert data.val.labels.tolist() == [2, 10]


def test_folders_named_by_wnid(tmp_path):
    """Labels are ranks of wnids, for any order of rows; two classes are cranes."""
    fill(tmp_path, train={"n03": 1, "n01": 2}, val={"n02": 1})
    (tmp_path / "labels.txt").write_text("n02 1 crane\nn03 2 crane\nn01 3 tench\n")
    data = read(tmp_path, "imagenet_lt")
    assert data.class_names == ("tench", "crane", "crane")
    assert data.train.labels.tolist() == [0, 0, 2] and data.val.labels.tolist() == [1]


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda root: (root / "val").rename(root / "dev"), "/val"),
        (lambda root: (root / "val/dog").rename(root / "val/doge"), "val/doge.*'dog'"),
        (lambda root: [p.unlink() for p in (root / "val").rglob("*.PNG")], "/val"),
        (lambda root: [p.rename(root / "x") for p in (root / "val").iterdir()], "/val"),
    ],
)
def test_faults_are_named(tmp_path, change, place):
    fill(tmp_path, train={"dog": 1, "cat": 1}, val={"dog": 1})
    (tmp_path / "labels.txt").write_text("cat 0\ndog 1\n")
    change(tmp_path)
    with pytest.raises(ListError, match=place):
        read(tmp_path)


def test_folders_named_by_number_need_a_label_file(tmp_path):
    fill(tmp_path, train={"7": 1, "cat": 1}, val={"cat": 1})
    with pytest.raises(ListError, match="labels.txt"):
        read(tmp_path)


def test_a_check_lists_every_unreadable_folder(tmp_path, monkeypatch):
    fill(tmp_path, train={"ant": 1, "cat": 1, "dog": 1}, val={"cat": 1})

    def pictures(folder, left_out):
        if folder.name == "cat":
            return real(folder, left_out)
        return [], [(str(folder), "Permission denied")]

    real = folders.pictures
    monkeypatch.setattr(folders, "pictures", pictures)
    faults = Faults(collect=True)
    data = folders.read_image_folder(tmp_path, "x", texts=NO_TEXTS, faults=faults)
    assert data.train_counts.tolist() == [0, 1, 0]
    (finding,) = faults.findings
    names = [offender.where.rpartition("/")[2] for offender in finding.offenders]
    assert (finding.code, names) == ("folder-unreadable", ["ant", "dog"])
    with pytest.raises(ListError, match="train/ant"):
        read(tmp_path)


def test_a_run_warns_if_validation_images_are_the_test(tmp_path, capsys):
    """Breaks if they pass for test images without a word."""
    fill(tmp_path, train={"cat": 1, "dog": 1}, val={"cat": 1, "dog": 1})
    options = {"source": "image_folder", "texts": "none"}
    data = run_inputs.read_data(config(tmp_path, **options))
    warning = capsys.readouterr().err
    assert data.test_is_val and "validation" in warning and "anchors.images" in warning
