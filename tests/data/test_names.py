"""Names that differ by Unicode's normal form are one; by case, a hint names them."""

import unicodedata

import pytest
from PIL import Image

from vl_ltr_jax.commands import check_data
from vl_ltr_jax.data.sources import folders, lists
from vl_ltr_jax.data.sources.dataset import Texts
from vl_ltr_jax.data.sources.faults import ListError
from vl_ltr_jax.data.sources.rows import SplitOverlapError
from vl_ltr_jax.data.text.class_names import LabelFileError, read_class_names
from vl_ltr_jax.logs.messages import near_name
from worlds.checked_world import config

NFC = "caf\u00e9"
NFD = unicodedata.normalize("NFD", NFC)
NO_TEXTS = Texts(absent=True)


def draw(root, *names):
    for colour, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 8), (colour, 9, 0)).save(root / name)


@pytest.mark.parametrize("labels", [NFC, NFD, ""])
@pytest.mark.parametrize("train", [NFC, NFD])
@pytest.mark.parametrize("val", [NFC, NFD])
def test_folders_of_a_mac_and_labels_as_typed(tmp_path, labels, train, val):
    """Breaks when names are compared byte by byte; the order of classes stays too."""
    for split, name in (("train", train), ("val", val)):
        draw(tmp_path / split, "cafz/0.png", f"{name}/0.png", "owl/0.png")
    if labels:
        (tmp_path / "labels.txt").write_text(f"owl 0\n{labels} 1\ncafz 2\n")
    data = folders.read_image_folder(tmp_path, "x", texts=NO_TEXTS)
    assert data.class_names == (
        ("owl", NFC, "cafz") if labels else ("cafz", NFC, "owl")
    )
    assert sorted(data.train.labels) == sorted(data.val.labels) == [0, 1, 2]
    assert data.val.read(1).size == (9, 8)


@pytest.mark.parametrize("split", ["train", "val"])
def test_two_folders_of_one_name_are_refused(tmp_path, split):
    for name in ("train", "val"):
        draw(tmp_path / name, f"{NFC}/0.png", "owl/0.png")
    draw(tmp_path / split, f"{NFD}/1.png")
    with pytest.raises(ListError, match=f"{split}: two folders are called"):
        folders.read_image_folder(tmp_path, "x", texts=NO_TEXTS)


def test_one_class_in_two_forms_is_given_twice(tmp_path):
    (tmp_path / "labels.txt").write_text(f"{NFC} 0\n{NFD} 1\n")
    with pytest.raises(LabelFileError, match="labels.txt:2: .*given before"):
        read_class_names(tmp_path)


def listed(root, train, val="val.png", test="test.png"):
    (root / "labels.txt").write_text("one 0\n")
    for split, path in (("train", train), ("val", val), ("test", test)):
        (root / f"own_{split}.txt").write_text(f"{path} 0\n")
    return lists.read_image_list(root, "own", texts=NO_TEXTS)


@pytest.mark.parametrize("written", [NFC, NFD])
@pytest.mark.parametrize("disk", [NFC, NFD])
def test_lists_find_files_of_another_form(tmp_path, written, disk):
    draw(tmp_path, f"a/{disk}/{disk}.png", "val.png", "test.png")
    data = listed(tmp_path, f"a/{written}/{written}.png")
    assert data.train.read(0).size == (9, 8)
    assert data.train.path(0) == tmp_path / f"a/{disk}/{disk}.png"
    checked = check_data.check_data(config(tmp_path, name="own", texts="none"))
    assert not [f for f in checked.findings if f.code == "image-missing"]


def test_two_files_of_one_name_are_told_apart_by_bytes_or_not_at_all(tmp_path):
    hangul = "\u1112\u1161\u11ab"  # one syllable, which has a third spelling
    half = unicodedata.normalize("NFC", hangul[:2]) + hangul[2]
    draw(tmp_path, f"{hangul}.png", f"{half}.png", "val.png", "test.png")
    data = listed(tmp_path, f"{half}.png")
    assert data.train.path(0).name == f"{half}.png"
    with pytest.raises(ListError, match="own_train.txt:1: no image"):
        listed(tmp_path, unicodedata.normalize("NFC", hangul) + ".png")


def test_an_image_of_two_splits_under_two_forms_is_a_leak(tmp_path):
    draw(tmp_path, f"{NFD}.png", "val.png", "test.png")
    with pytest.raises(SplitOverlapError, match="1 images"):
        listed(tmp_path, f"{NFD}.png", test=f"{NFC}.png")


@pytest.mark.parametrize(
    ("written", "suggestion"),
    [
        ("a/0.png", "0.PNG"),
        ("A/0.png", "a/0.PNG"),
        (f"{NFC.upper()}/0.png", f"{NFD}/0.png"),
    ],
)
def test_the_hint_is_the_file_of_another_case(tmp_path, written, suggestion):
    """Breaks when likeness goes first: '2.png' is another picture, with its own row."""
    draw(
        tmp_path, "a/0.PNG", "a/1.png", "a/2.png", f"{NFD}/0.png", "val.png", "test.png"
    )
    with pytest.raises(ListError) as error:
        listed(tmp_path, f"a/1.png 0\na/2.png 0\n{written}")
    assert f"did you mean {suggestion!r}?" in str(error.value)
    checked = check_data.check_data(config(tmp_path, name="own", texts="none"))
    (finding,) = (f for f in checked.findings if f.code == "image-missing")
    assert f"did you mean {suggestion!r}?" in finding.offenders[0].note


def test_the_hint_is_no_picture_that_is_listed_already(tmp_path):
    draw(tmp_path, "a/1.png", "a/20.png", "val.png", "test.png")
    with pytest.raises(ListError) as error:
        listed(tmp_path, "a/1.png 0\na/2.png")
    assert "did you mean '20.png'?" in str(error.value)
    with pytest.raises(ListError) as error:
        listed(tmp_path, "a/1.png 0\na/20.png 0\na/2.png")
    assert "did you mean" not in str(error.value)


def test_case_goes_before_likeness_among_names():
    assert "'Dog'" in near_name("dog", ["dogs", "Dog"])
    assert repr(NFD) in near_name(NFC, ["cafe", NFD])


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("n1 1 tench\nn2 2 great white shark\nn3 3 tiger shark", None),
        ("n1\t1\ttench\nn2\t2\tgreat white shark\nn3\t3\ttiger  shark", None),
        ("n1 1 tench\nn2 2 great_white_shark\nn3 3 tiger_shark", None),
        ("n1 tench\nn2 great white shark", "labels.txt:1.*wnid number name"),
        ("n1 1 tench\nn2 great white shark", "labels.txt:2.*wnid number name"),
        ("n1 1 tench 1300\nn2 2 great_white_shark 1300", "labels.txt:2.*columns"),
        ("n1 tench, Tinca tinca", "labels.txt:1.*wnid number name"),
    ],
)
def test_every_field_of_a_numbered_row_counts(tmp_path, text, names):
    """Breaks when the last word is taken for the name: two sharks called shark."""
    (tmp_path / "labels.txt").write_text(text + "\n")
    if names is None:
        expected = ("tench", "great white shark", "tiger shark")
        assert read_class_names(tmp_path, "imagenet_lt") == expected
        return
    with pytest.raises(LabelFileError, match=names):
        read_class_names(tmp_path, "imagenet_lt")


@pytest.mark.parametrize(
    ("layout", "row", "name"),
    [
        ("plain", "great white shark 0", "great white shark"),
        ("plain", "a, b {c} 7 0", "a, b {c} 7"),
        ("plain", '"a", \u732b \U0001f408\t0', '"a", \u732b \U0001f408'),
        ("places_lt", "/a/airfield 0", " a airfield"),
    ],
)
def test_the_whole_row_but_its_label_is_the_name(tmp_path, layout, row, name):
    (tmp_path / "labels.txt").write_text(f"\ufeff{row}\r\n", encoding="utf-8")
    assert read_class_names(tmp_path, layout) == (name,)


def test_a_row_of_two_labels_is_no_row_of_one(tmp_path):
    draw(tmp_path, "0.png", "val.png", "test.png")
    with pytest.raises(ListError, match="no image '0.png 1'"):
        listed(tmp_path, "0.png 1")


def test_absent_categories_are_said_to_lie_in_the_annotations_too(tmp_path):
    with pytest.raises(LabelFileError, match="categories.json .*train2018.json"):
        read_class_names(tmp_path, "inat18")
