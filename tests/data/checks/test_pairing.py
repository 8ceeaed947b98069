"""The class of a text, in every style of names and every wrong order."""

import numpy as np
import pytest

from vl_ltr_jax.data.checks import misfiled, pairing
from vl_ltr_jax.data.checks.pairing import NameIndex, words
from vl_ltr_jax.data.sources.dataset import Split

NAMES = (
    *("tench", "acorn", "violin", "castle", "walrus", "banjo"),
    *("teapot", "zebra", "lighthouse", "mushroom", "sea lion", "anvil"),
)


def say(name):
    return f"A {name} is easy to tell by its shape. People like a {name}."


def find(names, texts, extra=None):
    where = [f"wiki/desc_{label}.txt" for label in range(len(names))]
    return pairing.findings(names, texts, where, extra)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Sea_lions, cherries", ("sea", "lion", "cherry")),
        ("Boxes of glasses and matches", ("box", "of", "glass", "and", "match")),
        ("CAFÉ naïve, isn't", ("cafe", "naive", "isn", "t")),
        ("even-toed Turdus, grass", ("even", "toed", "turdus", "grass")),
        ("小提琴 violin", ("小", "提", "琴", "violin")),
        ("バイオリン", tuple("バイオリン")),
        ("바이올린", tuple("바이올린")),
    ],
)
def test_words(text, expected):
    """Broken by: singulars of Latin names; decomposed accents, voiced kana, Hangul."""
    assert words(text) == expected


@pytest.mark.parametrize(
    ("names", "texts"),
    [
        (
            ("great white shark", "hammerhead shark"),
            ("Great white sharks are fish.", "The hammerhead is a shark."),
        ),
        (
            (" a airfield", " b bakery shop", "/s/ski_resort"),
            ("Airfields are flat.", "A shop of a bakery.", "A ski resort is cold."),
        ),
        (
            ("Acacia dealbata", "Acacia baileyana"),
            ("The wattle Acacia dealbata.", "A. baileyana is a tree."),
        ),
        (("crane", "crane"), ("A crane lifts.", "Cranes fly.")),
        (("小提琴", "茶壶"), ("小提琴是一种弦乐器。", "茶壶用来泡茶。")),
    ],
)
def test_every_style_of_names_is_found(names, texts):
    index = NameIndex(names)
    for label, text in enumerate(texts):
        assert index.mentions(text).speaks_of(label)
    assert find(names, texts) == []


def test_shared_words_point_to_no_class():
    """Broken by: counting a genus, or 'shark', as a mention of each that has it."""
    index = NameIndex(("great white shark", "hammerhead shark"))
    mentions = index.mentions("A shark is a fish.")
    assert not mentions.speaks_of(0) and not mentions.speaks_of(1)


def test_only_the_beginning_of_a_text_counts():
    far = "word " * pairing.TEXT_WORDS + "violin"
    assert not NameIndex(NAMES).mentions(far).speaks_of(2)


WRONG = {
    "sorted as strings (0": sorted(range(12), key=str),
    "sorted as strings, taken backwards": np.argsort(sorted(range(12), key=str)),
    "from 1 sorted": [int(n) - 1 for n in sorted(map(str, range(1, 13)))],
    "numbers from 1": [-1, *range(11)],
    "one too small": [*range(1, 12), -1],
    "reverse": range(11, -1, -1),
    "sorted alphabetically": sorted(range(12), key=lambda label: NAMES[label]),
    "alphabetically, taken backwards": np.argsort(np.argsort(NAMES)),
    "label file": [5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 6],
}


@pytest.mark.parametrize("name", WRONG)
def test_each_wrong_order_is_named(name):
    order = WRONG[name]
    texts = [say(NAMES[label]) if label >= 0 else None for label in order]
    (finding,) = find(NAMES, texts, {"label file": WRONG["label file"]})
    assert finding.code == "text-order" and finding.severity == "error"
    assert name in finding.what
    moved = [n for n, label in enumerate(order) if label not in (-1, n)]
    assert finding.count == len(moved)
    first = finding.offenders[0]
    assert (first.label, first.class_name) == (moved[0], NAMES[moved[0]])
    assert f"class {order[moved[0]]} {NAMES[order[moved[0]]]!r}" in first.note


def test_no_order_explains_texts_that_were_shuffled():
    order = np.random.default_rng(0).permutation(12)
    (finding,) = find(NAMES, [say(NAMES[label]) for label in order])
    assert finding.code == "text-of-other-class" and finding.severity == "error"


def test_exchanged_species_of_a_genus_are_found():
    """Broken by: taking the genus, which both have, for a mention of the class."""
    names = ("Quercus alba", "Quercus rubra", *NAMES)
    texts = [say(name) for name in names]
    texts[0], texts[1] = texts[1], texts[0]
    (finding,) = find(names, texts)
    assert finding.severity == "warning"
    assert [offender.label for offender in finding.offenders] == [0, 1]
    assert "class 1 'Quercus rubra'" in finding.offenders[0].note


@pytest.mark.parametrize("text", ["Il a quatre cordes et un archet.", "", None])
def test_a_name_that_does_not_occur_is_no_error(text):
    texts = [*map(say, NAMES[:2]), text, *map(say, NAMES[3:])]
    assert not [f for f in find(NAMES, texts) if f.severity == "error"]
    assert find(NAMES, [text] * len(NAMES)) == []


def split_of(rows):
    labels = np.array([label for _, label in rows], np.int32)
    paths = [f"/data/{folder}/{n}.jpg" for n, (folder, _) in enumerate(rows)]
    return {"train": Split(labels, str.encode, paths.__getitem__, paths.__getitem__)}


@pytest.mark.parametrize(
    ("names", "wnids", "folders"),
    [
        (("cat", "sea lion", "dog"), (), ("cat", "sea_lion", "dog")),
        ((" a arch", " b bakery shop"), (), ("a/arch", "b/bakery/shop")),
        (("crane", "crane"), ("n01", "n02"), ("n01", "n02")),
    ],
)
def test_folders_of_other_classes(names, wnids, folders):
    rows = [(folder, label) for label, folder in enumerate(folders)] * 9
    assert misfiled.findings(split_of(rows), names, wnids) == []
    rows[1] = (rows[0][0], 1)
    (finding,) = misfiled.findings(split_of(rows), names, wnids)
    assert (finding.count, finding.severity) == (1, "warning")
    assert finding.offenders[0].where == f"/data/{rows[0][0]}/1.jpg"
    assert "its folder is class 0" in finding.offenders[0].note
    rows = [(folder, 1 - label) for folder, label in rows if label < 2]
    (finding,) = misfiled.findings(split_of(rows), names, wnids)
    assert finding.severity == "error"


def test_folders_that_are_not_called_by_classes_tell_nothing():
    rows = [("cat", 1), *((f"batch{n}", n % 2) for n in range(9))]
    assert misfiled.findings(split_of(rows), ("cat", "dog")) == []
