"""Class names, texts and sentences against VL-LTR's, and every user mistake."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vl_ltr_jax.data.text.class_names import read_class_names
from vl_ltr_jax.data.text.corpus import (
    CORPUS_RULES,
    build_corpus,
    drop_sections,
    parse_sections,
    split_sentences,
    vl_ltr_text,
)
from vl_ltr_jax.data.text.files import read_texts
from vl_ltr_jax.data.text.prompts import PROMPTS, fill_prompts
from vl_ltr_jax.logs import messages
from worlds.file_damage import examples

GOLDEN = Path(__file__).parents[2] / "golden" / "text"
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
    assert str(messages.unknown_name("the fruit", "x", ["pear"])) == (
        "the fruit is 'x'; allowed: pear."
    )


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
    rest = [body for heading, body in last.items() if heading not in dropped]
    assert vl_ltr_text(sections) == summary + "\n" + "\n".join(rest)


@pytest.mark.parametrize(
    ("line", "heading"),
    [
        ("==External links", "External links"),
        ("=== = odd = ===", "odd"),
        ("==", ""),
        ("===", ""),
        ("== ==", ""),
        ("== a == b", "a == b"),
        ("==a=", "a"),
        ("== \tReferences ==", "\tReferences"),
    ],
)
def test_lines_that_start_with_two_signs_are_headings(line: str, heading: str) -> None:
    assert parse_sections(f"Above.\n  {line} \nBelow.") == (
        ("summary", "Above."),
        (heading, "Below."),
    )


@pytest.mark.parametrize("rule", CORPUS_RULES)
def test_an_unclosed_heading_drops_its_section(rule: str) -> None:
    text = "Seen.\n==External links\nJunk.\n=== = References = ===\nMore junk."
    corpus = build_corpus(["a"], [text], "none", rule=rule)
    assert corpus.sentences == ("Seen.",)


def test_long_lines_take_no_time() -> None:
    assert parse_sections("=" * 100_000 + "x")[1] == ("x", "")
    assert parse_sections("==" + " " * 100_000 + "==")[1] == ("", "")
