"""Class names, texts and sentences against VL-LTR's, and every user mistake."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vl_ltr_jax.data.text.class_names import LabelFileError, read_class_names
from vl_ltr_jax.data.text.corpus import (
    CORPUS_RULES,
    CorpusError,
    build_corpus,
    drop_sections,
    parse_sections,
    split_sentences,
    vl_ltr_text,
)
from vl_ltr_jax.data.text.files import read_texts
from vl_ltr_jax.data.text.prompts import PROMPTS, fill_prompts
from vl_ltr_jax.logs.messages import UnknownNameError
from worlds.file_damage import examples

GOLDEN = Path(__file__).parents[2] / "golden" / "text"
# Golden data set, our layout.
CASES = [("imnet_lt", "imagenet_lt"), ("places_lt", "places_lt"), ("inat", "inat18")]


def golden(name: str) -> Any:
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


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
    sections = drop_sections(parse_sections(text))
    assert [body for _, body in sections] == ["Kept.", "Stays.", "Too."]


def test_sentences() -> None:
    assert split_sentences("A b. C d?Ef! Gh  \n") == ("A b.", "C d?", "Ef! Gh")
    assert split_sentences(" \n ") == ()


def sections_by_hand(text: str) -> list[tuple[str, str]]:
    """The authors' rule, restated: a dict's key and value for each heading line."""
    heading, body, sections = "summary", "", []
    for line in text.split("\n"):
        stripped = line.strip()
        if stripped[:2] == "==":
            sections.append((heading, body.strip()))
            heading, body = stripped, ""
            while heading and heading[0] in "= ":
                heading = heading[1:]
            while heading and heading[-1] in "= ":
                heading = heading[:-1]
        elif stripped:
            body += stripped + "\n"
    return [*sections, (heading, body.strip())]


LINES = st.one_of(
    st.text("= aB.\t\u00a0", max_size=9),  # unclosed, short, blank, `=` inside
    st.sampled_from(("==", "=", "== summary ==", "==References", "=== = odd = ===")),
    st.text(max_size=20),
)


@given(st.lists(LINES, max_size=12).map("\n".join))
@examples(500)
def test_headings_of_hostile_texts(text: str) -> None:
    """Breaks when a heading must be closed, or has a length, or loses a tab."""
    expected = sections_by_hand(text)
    sections = parse_sections(text)
    assert list(sections) == expected
    dropped = {"External links", "References", "Further reading", "Bibliography"}
    last = dict(expected)  # of equal headings
    summary = last.pop("summary")
    bodies = [body for heading, body in last.items() if heading not in dropped]
    assert vl_ltr_text(sections) == summary + "\n" + "\n".join(bodies)


@pytest.mark.parametrize("rule", CORPUS_RULES)
def test_an_unclosed_heading_drops_its_section(rule: str) -> None:
    text = "Seen.\n==External links\nJunk.\n=== = References = ===\nMore junk."
    corpus = build_corpus(["a"], [text], "none", rule=rule)
    assert corpus.sentences == ("Seen.",)


@pytest.mark.parametrize(
    ("layout", "rows", "place"),
    [
        ("plain", "cat 0\ndog\n", "labels.txt:2"),
        ("plain", "cat 0\ndog x\n", "labels.txt:2"),
        ("plain", "cat 0\ndog -1\n", "labels.txt:2"),
        ("plain", "a_b 0\n\na b 1\n", "labels.txt:3: .*labels.txt:1"),
        ("plain", "cat 0\ndog 0\n", "labels.txt:2: .*labels.txt:1"),
        ("plain", "cat 0\ndog 2\n", "labels.txt:2"),
        ("plain", "cat 1\ndog 2\n", "labels.txt:2"),
        ("plain", "\n", "labels.txt"),
        ("imagenet_lt", "n1 0 cat\nn2 dog\n", "labels.txt:2"),
        ("imagenet_lt", "n1 0 cat\nn1 1 dog\n", "labels.txt:2: .*labels.txt:1"),
        ("imagenet_lt", "", "labels.txt"),
        ("inat18", '[\n{"id": 0\n]', "categories.json"),
        ("inat18", '{"id": 0}', "categories.json"),
        ("inat18", "[]", "categories.json"),
        ("inat18", '[{"id": "0", "name": "a"}]', "categories.json: category 0"),
        ("inat18", '[{"id": true, "name": "a"}]', "categories.json: category 0"),
        ("inat18", '[{"id": 1, "name": "a"}]', "categories.json: category 0"),
        (
            "inat18",
            '[{"id": 0, "name": "a"}, {"id": 0, "name": "b"}]',
            "category 1 .*category 0",
        ),
    ],
)
def test_faults_of_label_files_are_named(
    tmp_path: Path, layout: str, rows: str, place: str
) -> None:
    name = "categories.json" if layout == "inat18" else "labels.txt"
    with pytest.raises(LabelFileError, match=name):
        read_class_names(tmp_path, layout)
    (tmp_path / name).write_text(rows)
    with pytest.raises(LabelFileError, match=place):
        read_class_names(tmp_path, layout)


def test_arguments_of_the_corpus_are_checked(tmp_path: Path) -> None:
    text = "== References ==\nOnly these."
    with pytest.raises(CorpusError, match="desc_1.txt"):
        build_corpus(["a", "b"], ["Text.", text], "none")
    with pytest.raises(CorpusError):
        build_corpus(["a", "b"], ["b."])
    with pytest.raises(ValueError, match="a photo."):
        build_corpus(["a"], ["b."], ["a photo."])
    for call in (
        lambda: build_corpus(["a"], ["b."], "imagenet_80"),
        lambda: build_corpus(["a"], ["b."], rule="vlltr"),
        lambda: read_class_names(tmp_path, "plian"),
    ):
        with pytest.raises(UnknownNameError):
            call()


@pytest.mark.parametrize(
    ("layout", "rows", "names"),
    [
        ("plain", "baked_goods 1\r\n\n  big cat   0\n", ("big cat", "baked goods")),
        ("imagenet_lt", "n2 1 crane\nn1 2 crane\n", ("crane", "crane")),
    ],
)
def test_rows_of_label_files(
    tmp_path: Path, layout: str, rows: str, names: tuple[str, ...]
) -> None:
    (tmp_path / "labels.txt").write_text(rows)
    assert read_class_names(tmp_path, layout) == names
