"""Names that differ by Unicode's normal form are one; by case, a hint names them."""

import unicodedata

import pytest
from PIL import Image

from vl_ltr_jax.data.sources import folders, lists
from vl_ltr_jax.data.sources.dataset import Texts
from vl_ltr_jax.data.sources.faults import ListError
from vl_ltr_jax.data.sources.rows import SplitOverlapError
from vl_ltr_jax.data.text.class_names import LabelFileError, read_class_names
from vl_ltr_jax.logs.messages import near_name
from worlds.checked_world import look

NFC = "caf\u00e9"
NFD = unicodedata.normalize("NFD", NFC)
NO_TEXTS = Texts(absent=True)


def draw(root, *names):
    for colour, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 8), (colour, 9, 0)).save(root / name)


@pytest.mark.parametrize("labels", [NFC, NFD, ""])
@pytest.mark.parametrize(("train", "val"), [(NFC, NFD), (NFD, NFC)])
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


def test_one_class_in_two_forms_is_refused(tmp_path):
    draw(tmp_path / "train", f"{NFC}/0.png")
    draw(tmp_path / "val", f"{NFC}/0.png", f"{NFD}/1.png")
    with pytest.raises(ListError, match="val"):
        folders.read_image_folder(tmp_path, "x", texts=NO_TEXTS)
    (tmp_path / "labels.txt").write_text(f"{NFC} 0\n{NFD} 1\n")
    with pytest.raises(LabelFileError, match="labels.txt:2"):
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
    codes = {f.code for f in look(tmp_path, name="own", texts="none").findings}
    assert "image-missing" not in codes


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
    draw(tmp_path, "a/0.PNG", "a/1.png", "a/2.png", f"{NFD}/0.png", "val.png")
    draw(tmp_path, "test.png")
    with pytest.raises(ListError, match=repr(suggestion)):
        listed(tmp_path, f"a/1.png 0\na/2.png 0\n{written}")
    checked = look(tmp_path, name="own", texts="none")
    (finding,) = (f for f in checked.findings if f.code == "image-missing")
    assert repr(suggestion) in finding.offenders[0].note
    assert repr(NFD) in near_name(NFC, ["cafe", NFD])  # among other names too


def test_the_hint_is_no_picture_that_is_listed_already(tmp_path):
    draw(tmp_path, "a/1.png", "a/20.png", "val.png", "test.png")
    with pytest.raises(ListError, match="'20.png'"):
        listed(tmp_path, "a/1.png 0\na/2.png")
    with pytest.raises(ListError) as error:
        listed(tmp_path, "a/1.png 0\na/20.png 0\na/2.png")
    assert "'20.png'" not in str(error.value)


@pytest.mark.parametrize(
    ("layout", "text", "expected"),
    [
        ("plain", "\ufeffa, b {c} 7 0\r\n\n tiger shark   1", "a, b {c} 7/tiger shark"),
        ("plain", 'sea_lion 1\n"a", \u732b\t0', '"a", \u732b/sea lion'),
        ("places_lt", "/a/airfield 0", " a airfield"),
        ("imagenet_lt", "n2 1 tench\nn1\t2\ttiger  shark", "tiger shark/tench"),
        ("imagenet_lt", "n2 1 crane\nn1 2 crane", "crane/crane"),
    ],
)
def test_every_word_of_a_row_counts(tmp_path, layout, text, expected):
    """Breaks when the last word is taken for the name: two sharks called shark."""
    (tmp_path / "labels.txt").write_text(text + "\n", encoding="utf-8")
    assert "/".join(read_class_names(tmp_path, layout)) == expected


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("n1 1 tench\nn2 tiger shark", "labels.txt:2"),
        ("n1 1 tench 1300\nn2 2 great_white_shark 1300", "labels.txt:2"),
        ("n1 tench, Tinca tinca", "labels.txt:1"),
    ],
)
def test_numbered_rows_need_three_columns(tmp_path, text, place):
    (tmp_path / "labels.txt").write_text(text + "\n")
    with pytest.raises(LabelFileError, match=place):
        read_class_names(tmp_path, "imagenet_lt")
