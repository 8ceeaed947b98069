"""Class names, texts and sentences against VL-LTR's, and every user mistake."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vl_ltr_jax.data import class_names as names
from vl_ltr_jax.data.corpus import (
    PROMPTS,
    build_corpus,
    drop_sections,
    parse_sections,
    read_class_names,
    read_texts,
    split_sentences,
    vl_ltr_text,
)
from vl_ltr_jax.data.prompts import fill_prompts

GOLDEN = Path(__file__).parent / "golden" / "text"
# Golden data set, our layout.
CASES = [("imnet_lt", "imagenet_lt"), ("places_lt", "places_lt"), ("inat", "inat18")]


def golden(name: str) -> Any:
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


def labels_file(root: Path, rows: str) -> Path:
    (root / "labels.txt").write_text(rows, encoding="utf-8")
    return root


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_golden_class_names(name: str, layout: str) -> None:
    """Broken by: ranking ImageNet rows by their number; stripping Places names."""
    expected = [category["name"] for category in golden(name)["categories"]]
    assert list(read_class_names(GOLDEN / name, layout)) == expected


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_golden_sections(name: str, layout: str) -> None:
    """Broken by: single '=' as a heading; keeping empty lines; latin-1 for GBK."""
    expected = golden(name)
    texts = read_texts(GOLDEN / name, len(expected["categories"]))
    sections = [parse_sections(text) for text in texts]
    # VL-LTR's dict: the last of equal headings wins, in the place of the first.
    assert [list(dict(s).items()) for s in sections] == [
        list(parsed.items()) for parsed in expected["parsed"]
    ]
    assert [vl_ltr_text(s) for s in sections] == expected["wiki_text"]


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_golden_prompts(name: str, layout: str) -> None:
    """Broken by: no space after the name, or any template out of order."""
    class_names = read_class_names(GOLDEN / name, layout)
    filled = [list(fill_prompts(PROMPTS["imagenet80"], n)) for n in class_names]
    assert filled == golden(name)["prompts"]


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_golden_sentences(name: str, layout: str) -> None:
    """Broken by: splitting at '!' or after 'U.S.', or not before a capital."""
    expected = golden(name)
    class_names = read_class_names(GOLDEN / name, layout)
    texts = read_texts(GOLDEN / name, len(class_names))
    corpus = build_corpus(class_names, texts, "imagenet80", rule="vl_ltr")
    assert list(corpus.sentences) == sum(expected["sentences"], [])
    assert corpus.counts.tolist() == expected["sentence_counts"]
    assert corpus.labels.tolist() == sorted(corpus.labels.tolist())
    assert corpus.labels.dtype == np.int32


def test_golden_full_text() -> None:
    """Broken by: any separator between the prompts and the text."""
    expected = golden("imnet_lt")
    texts = read_texts(GOLDEN / "imnet_lt", 13)
    for label, full in enumerate(expected["full_text"]):
        prompts = "\n".join(expected["prompts"][label])
        assert prompts + vl_ltr_text(parse_sections(texts[label])) == full


def test_mended_rule_leaves_prompts_and_sections_whole() -> None:
    text = "it starts low\n== A ==\nfirst\n== B ==\nother.\n== A ==\nsecond"
    mended = build_corpus(["St. Louis"], [text], ["a {}."])
    faithful = build_corpus(["St. Louis"], [text], ["a {}."], rule="vl_ltr")
    assert mended.sentences == (
        "a St. Louis .",
        "it starts low",
        "first",
        "other.",
        "second",
    )
    assert faithful.sentences == (
        "a St.",
        "Louis .it starts low\nsecond\nother.",
    )


def test_mended_rule_changes_only_the_faulty_classes() -> None:
    class_names = read_class_names(GOLDEN / "imnet_lt", "imagenet_lt")
    texts = read_texts(GOLDEN / "imnet_lt", 13)
    mended = build_corpus(class_names, texts)
    sentences = np.array(mended.sentences, object)
    changed = [
        class_names[label]
        for label, expected in enumerate(golden("imnet_lt")["sentences"])
        if list(sentences[mended.labels == label])
        != [" ".join(sentence.split()) for sentence in expected]
    ]
    assert changed == ["lower start", "duplicate keys", "gbk", "summary key"]


def test_sections_that_point_elsewhere_are_dropped() -> None:
    text = (
        "Kept.\n== References ==\nGone.\n=== Deeper ===\nStays.\n== references ==\nToo."
    )
    kept = drop_sections(parse_sections(text))
    assert [body for _, body in kept] == ["Kept.", "Stays.", "Too."]


def test_sentences() -> None:
    assert split_sentences("A b. C d?Ef! Gh  \n") == ("A b.", "C d?", "Ef! Gh")
    assert split_sentences(" \n ") == ()


@pytest.mark.parametrize("prompts", ["plain", "imagenet80"])
def test_every_template_takes_the_name(prompts: str) -> None:
    corpus = build_corpus(["x", "y"], ["", ""], prompts)
    assert corpus.counts.tolist() == [len(PROMPTS[prompts])] * 2
    assert len(set(corpus.sentences)) == len(corpus.sentences)


def test_plain_layout(tmp_path: Path) -> None:
    root = labels_file(tmp_path, "baked_goods 1\r\n\n  big cat   0\n")
    assert read_class_names(root) == ("big cat", "baked goods")


@pytest.mark.parametrize(
    ("layout", "rows", "message"),
    [
        ("plain", "cat 0\ndog\n", r"labels.txt:2: 'dog' is not a row `name label`"),
        ("plain", "cat 0\ndog x\n", r"labels.txt:2: the label 'x' of 'dog' is not"),
        ("plain", "cat 0\ndog -1\n", r"labels.txt:2: the label '-1'"),
        ("plain", "a_b 0\n\na b 1\n", r"labels.txt:3: .* 'a b' .*labels.txt:1;"),
        ("plain", "cat 0\ndog 0\n", r"labels.txt:2: the label 0 .*labels.txt:1;"),
        ("plain", "cat 0\ndog 2\n", r"labels.txt:2: the label 2 of 'dog' .* label 1"),
        ("plain", "cat 1\ndog 2\n", r"labels.txt:2: .* outside 0 .. 1, .* label 0"),
        ("plain", "\n", r"labels.txt: names no class"),
        ("imagenet_lt", "n1 0 cat\nn2 dog\n", r"labels.txt:2: .*`wnid number name`"),
        ("imagenet_lt", "n1 0 cat\nn1 1 dog\n", r"labels.txt:2: the wnid 'n1'"),
        ("imagenet_lt", "", r"labels.txt: names no class"),
        ("plian", "cat 0\n", r"layout is 'plian'; .*Did you mean 'plain'\?"),
    ],
)
def test_label_file_faults(
    tmp_path: Path, layout: str, rows: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_class_names(labels_file(tmp_path, rows), layout)


def test_two_imagenet_classes_may_share_a_name(tmp_path: Path) -> None:
    root = labels_file(tmp_path, "n2 1 crane\nn1 2 crane\n")
    assert read_class_names(root, "imagenet_lt") == ("crane", "crane")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[\n{"id": 0\n]', r"categories.json:3: not JSON"),
        ('{"id": 0}', r"categories.json: .* is not a list of categories"),
        ("[]", r"categories.json: '\[\]' is not a list of categories"),
        ('[{"id": "0", "name": "a"}]', r"category 0 of the list"),
        (
            '[{"id": 0, "name": "a"}, {"id": 0, "name": "b"}]',
            r"category 1 .* label 0 .*category 0",
        ),
        ('[{"id": 1, "name": "a"}]', r"category 0 .* label 1 of 'a' lies outside 0"),
    ],
)
def test_categories_faults(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "categories.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_class_names(tmp_path, "inat18")


def test_label_file_missing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"labels.txt does not exist; .*'places_lt'"):
        read_class_names(tmp_path, "places_lt")


def test_class_without_sentence_is_named() -> None:
    text = "== References ==\nOnly these."
    with pytest.raises(ValueError, match=r"1 of 2 .*'b' \(label 1, .*desc_1.txt"):
        build_corpus(["a", "b"], ["Text.", text], "none")


def test_corpus_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="Did you mean 'imagenet80'"):
        build_corpus(["a"], ["b."], "imagenet_80")
    with pytest.raises(ValueError, match="Did you mean 'vl_ltr'"):
        build_corpus(["a"], ["b."], rule="vlltr")
    with pytest.raises(ValueError, match="2 class names, but 1 texts"):
        build_corpus(["a", "b"], ["b."])
    with pytest.raises(ValueError, match="'a photo.' has no place"):
        build_corpus(["a"], ["b."], ["a photo."])


def test_unknown_name_without_a_near_one() -> None:
    assert str(names.unknown_name("the fruit", "x", ["pear"])) == (
        "the fruit is 'x'; allowed: pear."
    )


def test_headings_are_those_of_the_authors_pattern():
    """Every line of up to seven letters of four kinds, and none takes for ever."""
    pattern = re.compile(r"==+\s*(.*?)\s*==+")
    for length in range(8):
        for letters in itertools.product("= a.", repeat=length):
            line = "".join(letters).strip()
            found = parse_sections(line)[1:]
            match = pattern.fullmatch(line)
            assert found == (((match[1], ""),) if match else ()), line
    assert len(parse_sections("=" * 100_000 + "x")) == 1
    assert parse_sections("==" + " " * 100_000 + "==")[1] == ("", "")
