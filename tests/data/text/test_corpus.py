"""Class names, texts and sentences against VL-LTR's, and every user mistake."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vl_ltr_jax.data.text.class_names import LabelFileError, read_class_names
from vl_ltr_jax.data.text.corpus import (
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
from worlds.golden import GOLDEN, load


@pytest.mark.parametrize(
    ("name", "layout"),
    [("imnet_lt", "imagenet_lt"), ("places_lt", "places_lt"), ("inat", "inat18")],
)
def test_names_sections_prompts_and_sentences_equal_the_golden(name, layout):
    """Broken by: ranking ImageNet rows by their number; stripping Places names.

    Also by a single '=' as a heading, empty lines, or latin-1 for GBK. Also by no space
    after a name, templates in another order, or an end of a sentence after 'U.S.'.
    """
    golden, root = load(f"text/{name}.json"), GOLDEN / "text" / name
    names = read_class_names(root, layout)
    assert list(names) == [category["name"] for category in golden["categories"]]
    texts = read_texts(root, len(names))
    sections = [parse_sections(text) for text in texts]
    # VL-LTR's dict: the last of equal headings wins, in the place of the first.
    assert [list(dict(s).items()) for s in sections] == [
        list(parsed.items()) for parsed in golden["parsed"]
    ]
    assert [vl_ltr_text(s) for s in sections] == golden["wiki_text"]
    filled = [list(fill_prompts(PROMPTS["imagenet80"], name)) for name in names]
    assert filled == golden["prompts"]
    corpus = build_corpus(names, texts, "imagenet80", rule="vl_ltr")
    assert list(corpus.sentences) == sum(golden["sentences"], [])
    assert corpus.counts.tolist() == golden["sentence_counts"]
    assert corpus.labels.tolist() == sorted(corpus.labels.tolist())


# Golden data set, our layout.


def test_mended_rule_leaves_prompts_and_sections_whole():
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
    assert faithful.sentences == ("a St.", "Louis .it starts low\nsecond\nother.")


def test_mended_rule_changes_only_the_faulty_classes():
    root = GOLDEN / "text/imnet_lt"
    class_names = read_class_names(root, "imagenet_lt")
    mended = build_corpus(class_names, read_texts(root, 13))
    sentences = [[] for _ in class_names]
    for label, sentence in zip(mended.labels, mended.sentences, strict=True):
        sentences[label].append(sentence)
    changed = [
        class_names[label]
        for label, expected in enumerate(load("text/imnet_lt.json")["sentences"])
        if sentences[label] != [" ".join(sentence.split()) for sentence in expected]
    ]
    assert changed == ["lower start", "duplicate keys", "gbk", "summary key"]


def test_sections_that_point_elsewhere_are_dropped():
    text = (
        "Kept.\n== References ==\nGone.\n=== Deeper ===\nStays.\n== references ==\nToo."
    )
    sections = drop_sections(parse_sections(text))
    assert [body for _, body in sections] == ["Kept.", "Stays.", "Too."]
    assert split_sentences("A b. C d?Ef! Gh  \n") == ("A b.", "C d?", "Ef! Gh")
    assert split_sentences(" \n ") == ()


def sections_by_hand(text):
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
def test_headings_of_hostile_texts(text):
    """Breaks when a heading must be closed, or has a length, or loses a tab."""
    expected = sections_by_hand(text)
    sections = parse_sections(text)
    assert list(sections) == expected
    dropped = {"External links", "References", "Further reading", "Bibliography"}
    last = dict(expected)  # of equal headings
    summary = last.pop("summary")
    bodies = [body for heading, body in last.items() if heading not in dropped]
    assert vl_ltr_text(sections) == summary + "\n" + "\n".join(bodies)


@pytest.mark.parametrize(
    ("layout", "rows", "place"),
    [
        ("plain", "cat 0\ndog\n", "labels.txt:2"),
        ("plain", "cat 0\ndog -1\n", "labels.txt:2"),
        ("plain", "a_b 0\n\na b 1\n", "labels.txt:3: .*labels.txt:1"),
        ("plain", "cat 0\ndog 0\n", "labels.txt:2: .*labels.txt:1"),
        ("plain", "cat 0\ndog 2\n", "labels.txt:2"),
        ("plain", "\n", "labels.txt"),
        ("imagenet_lt", "n1 0 cat\nn2 dog\n", "labels.txt:2"),
        ("imagenet_lt", "n1 0 cat\nn1 1 dog\n", "labels.txt:2: .*labels.txt:1"),
        ("inat18", '[\n{"id": 0\n]', "categories.json"),
        ("inat18", '{"id": 0}', "categories.json"),
        ("inat18", "[]", "categories.json"),
        ("inat18", '[{"id": true, "name": "a"}]', "categories.json: category 0"),
        ("inat18", '[{"id": 1, "name": "a"}]', "categories.json: category 0"),
        (
            "inat18",
            '[{"id": 0, "name": "a"}, {"id": 0, "name": "b"}]',
            "category 1 .*category 0",
        ),
    ],
)
def test_faults_of_label_files_are_named(tmp_path, layout, rows, place):
    name = "categories.json" if layout == "inat18" else "labels.txt"
    with pytest.raises(LabelFileError, match=name):
        read_class_names(tmp_path, layout)
    (tmp_path / name).write_text(rows)
    with pytest.raises(LabelFileError, match=place):
        read_class_names(tmp_path, layout)


def test_arguments_of_the_corpus_are_checked(tmp_path):
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
