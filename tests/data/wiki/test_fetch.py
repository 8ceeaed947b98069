"""Fetching texts against a small MediaWiki on the loopback: finds, faults, resuming."""

import json

import pytest

from vl_ltr_jax.commands import fetch_text
from vl_ltr_jax.data.text.corpus import parse_sections
from vl_ltr_jax.data.text.files import text_path
from vl_ltr_jax.data.wiki.class_pages import (
    TitleError,
    mentions,
    read_titles,
    searchable_names,
)
from vl_ltr_jax.data.wiki.fetch import fetch_texts
from vl_ltr_jax.data.wiki.mediawiki import MediaWiki, Page
from vl_ltr_jax.data.wiki.text_store import SourcesError, TextStore
from worlds.fake_wiki import waits, wiki

__all__ = ["waits", "wiki"]  # fixtures

CRANE = (
    "Cranes are large birds.\n\n\n== Habitat ==\nWet land.\n\n\n=== Nests ===\nReed."
)


def data_set(root, *names):
    rows = (f"{name.replace(' ', '_')} {label}\n" for label, name in enumerate(names))
    (root / "labels.txt").write_text("".join(rows), encoding="utf-8")
    return root


def run(root, wiki, *more):
    fast = "--requests_per_second=2000"
    try:
        return fetch_text.main([f"--root={root}", f"--api={wiki.api}", fast, *more])
    except SystemExit as ended:  # argparse
        return ended.code


def text(root, label):
    return text_path(root, label).read_bytes().decode()


def sources(root):
    lines = (root / "wiki" / "sources.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def files(root):
    return sorted(path.name for path in (root / "wiki").iterdir())


def titles_file(root, rows):
    (root / "titles.tsv").write_text(rows, encoding="utf-8")
    return f"--titles={root / 'titles.tsv'}"


def test_exact_page_with_sections_and_its_source(tmp_path, wiki):
    """Breaks with exsectionformat plain, a lost end of line, or a field left out."""
    wiki.texts = {"Crane": CRANE}
    assert run(data_set(tmp_path, "crane"), wiki, "--contact=me@example.org") == 0
    (agent,) = wiki.agents
    assert agent.startswith("vl_ltr_jax/") and "(me@example.org) " in agent
    assert text(tmp_path, 0) == f"{CRANE}\n"
    headings = [heading for heading, _ in parse_sections(text(tmp_path, 0))]
    assert headings == ["summary", "Habitat", "Nests"]
    (row,) = sources(tmp_path)
    assert len(row.pop("retrieved")) == 10 and len(row.pop("sha256")) == 64
    assert row == {
        **{"label": 0, "name": "crane", "how": "exact", "query": "crane"},
        **{"title": "Crane", "page_id": 100, "revision_id": 7100},
        "url": "https://w.example/Crane",
        "licence": "Attribution 4.0 https://example.org/by/4.0/",
    }
    assert files(tmp_path) == ["desc_0.txt", "sources.jsonl"]


def test_redirect_and_search_after_disambiguation(tmp_path, wiki, capsys):
    """Breaks when a list of meanings counts, or when the first hit is taken unread."""
    wiki.redirects = {"Panthera leo": "Lion"}
    wiki.texts = {
        "Lion": "The lion is a cat.",
        "Crane": "Crane may refer to: a bird, a machine.",
        "Long necks": "A bird with a craned neck.",
        "Grus": "Grus is a bird, also called crane.",
        "Void": "",
    }
    wiki.disambiguations = {"Crane"}
    root = data_set(tmp_path, "panthera leo", "crane", "void", "zzz")
    assert run(root, wiki, "--hint=bird") == 1
    how = [(row["how"], row["title"]) for row in sources(tmp_path)]
    assert how == [("exact", "Lion"), ("search", "Grus")]
    searches = [query["srsearch"] for query in wiki.queries if "srsearch" in query]
    assert searches == ["crane bird", "void bird", "zzz bird"]
    assert files(tmp_path) == ["desc_0.txt", "desc_1.txt", "sources.jsonl"]
    out = capsys.readouterr().out
    assert "\n2\tvoid\t" in out and "\n3\tzzz\t" in out


def test_missing_empty_and_mended_by_a_title(tmp_path, wiki):
    """Breaks when an empty text written here is taken for the user's for ever."""
    wiki.texts = {"Lion": "A cat.", "Crane (bird)": CRANE}
    root = data_set(tmp_path, "lion", "zzz")
    assert run(root, wiki, "--missing=empty") == 0
    assert text(root, 1) == "" and sources(root)[1]["how"] == "missing"
    before = len(wiki.queries)
    assert run(root, wiki, titles_file(root, "1\tCrane_(bird)\n\n")) == 0
    assert wiki.titles_queried()[-1] == "Crane (bird)"
    assert len(wiki.queries) == before + 2  # the page, and the licence
    assert text(root, 1) == f"{CRANE}\n" and sources(root)[1]["how"] == "title"
    wiki.texts = {}  # pages that are lost take no text away
    assert run(root, wiki, "--missing=empty", "--overwrite") == 0
    assert text(root, 0) == "A cat.\n" and sources(root)[0]["how"] == "exact"


def test_a_new_title_replaces_no_edited_text(tmp_path, wiki):
    """Breaks when the hash is not compared: hours of editing would be lost."""
    wiki.texts = {"Crane": CRANE, "Crane (machine)": "Lifts.", "Meanings": "Many."}
    wiki.disambiguations = {"Meanings"}
    root = data_set(tmp_path, "crane", "Crane", "x")
    text_path(root, 2).parent.mkdir()
    text_path(root, 2).write_text("My own.", encoding="utf-8")
    assert run(root, wiki) == 0
    text_path(root, 0).write_text("Edited.", encoding="utf-8")
    titles = titles_file(root, "0\tCrane (machine)\n1\tMeanings\n2\tCrane")
    assert run(root, wiki, titles) == 0
    assert text(root, 0) == "Edited." and text(root, 2) == "My own."
    assert text(root, 1) == f"{CRANE}\n"  # that page lists meanings: the old one stays
    assert run(root, wiki, titles_file(root, "1\tCrane (machine)")) == 0
    assert text(root, 1) == "Lifts.\n"


def test_classes_with_the_same_page_are_named(tmp_path, wiki, capsys):
    """Breaks when shared pages are counted in one run only."""
    wiki.texts = {"Crane": CRANE}
    (tmp_path / "labels.txt").write_text("n02 517 crane\nn01 134 crane\n")
    assert run(tmp_path, wiki, "--layout=imagenet_lt") == 0
    assert run(tmp_path, wiki, "--layout=imagenet_lt") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("https://w.example/Crane") and last.count("crane") == 2


def test_a_dying_wiki_loses_nothing(tmp_path, wiki, waits):
    """Breaks when a second run asks again for the texts of the first."""
    wiki.texts = {name: f"About {name}." for name in ("A", "B", "C", "D")}
    root = data_set(tmp_path, *"abcd")
    wiki.dies_after = 3  # two pages and the licence
    assert run(root, wiki) == 1
    assert files(root) == ["desc_0.txt", "desc_1.txt", "sources.jsonl"]
    wiki.dies_after, wiki.queries = float("inf"), []
    assert run(root, wiki) == 0
    assert wiki.titles_queried() == ["c", "d"]
    assert [row["title"] for row in sources(root)] == ["A", "B", "C", "D"]
    wiki.queries = []
    assert run(root, wiki) == 0 and wiki.queries == []
    wiki.texts["B"] = "Newer."
    assert run(root, wiki, "--overwrite") == 0
    assert wiki.titles_queried() == list("abcd") and text(root, 1) == "Newer.\n"


def test_a_torn_row_of_a_killed_run_is_forgotten(tmp_path, wiki):
    """Breaks when rows are appended to the torn one."""
    wiki.texts = {"鹤": "鸟。", "B": "About b."}
    root = data_set(tmp_path, "鹤", "b")
    assert run(root, wiki) == 0
    text_path(root, 1).unlink()
    log = root / "wiki" / "sources.jsonl"
    first = log.read_bytes().split(b"\n")[0]
    log.write_bytes(first + b"\n" + first[: first.index("鹤".encode()) + 1])
    assert run(root, wiki) == 0
    assert [row["title"] for row in sources(root)] == ["鹤", "B"]


@pytest.mark.parametrize(
    "rows",
    ["0\tA\nlabel\ttitle\n", "0 Lion", "0\t", "0\tLion\tcat", "2\tLion", "1\tA\n1\tB"],
)
def test_faulty_rows_of_titles_are_refused(tmp_path, wiki, rows):
    root = data_set(tmp_path, "a", "b")
    titles_file(root, rows)
    with pytest.raises(TitleError, match=f"titles.tsv:{len(rows.splitlines())}"):
        read_titles(root / "titles.tsv", 2)
    assert run(root, wiki, titles_file(root, rows)) == 2 and wiki.queries == []
    assert run(root, wiki, "--api=en.wikipedia.org") == 2


def test_sources_of_other_classes_are_refused(tmp_path, wiki):
    """Breaks when labels that moved to other classes keep their texts."""
    wiki.texts = {"A": "About a.", "B": "About b."}
    root = data_set(tmp_path, "a", "b")
    assert run(root, wiki) == 0
    data_set(root, "b", "a")
    with pytest.raises(SourcesError, match="desc_0.txt"):
        fetch_texts(root, ["b", "a"], MediaWiki(wiki.api))
    assert run(root, wiki) == 2
    for label in range(2):
        text_path(root, label).unlink()
    assert run(root, wiki) == 0 and text(root, 0) == "About b.\n"
    (root / "wiki" / "sources.jsonl").write_text("{}\n")
    with pytest.raises(SourcesError, match="sources.jsonl:1"):
        TextStore(root)


def test_names_of_places_lose_their_letter(tmp_path):
    """Breaks when the prompts' names are searched, or a plain name loses a word."""
    (tmp_path / "labels.txt").write_text("/a/airfield 0\n/b/bar/indoor 1\n")
    assert searchable_names(tmp_path, "places_lt") == ("airfield", "bar indoor")
    assert searchable_names(data_set(tmp_path, "a crane")) == ("a crane",)
    titles_file(tmp_path, "\ufeff0\tLion")
    assert read_titles(tmp_path / "titles.tsv", 1) == {0: "Lion"}


@pytest.mark.parametrize(
    ("content", "name", "expected"),
    [
        ("The Black and Tan Coonhound.", "black-and-tan coonhound", True),
        ("Plants of the sea.", "ant", False),
        ("丹顶鹤是鸟。 Une e\u0301toile.", "étoile", True),
        ("Anything.", "!", False),
    ],
)
def test_a_page_mentions_whole_words(content, name, expected):
    page = Page("T", 1, 1, "u", content, True, False)
    assert mentions(page, name) is expected
