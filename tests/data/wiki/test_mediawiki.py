"""The client of a MediaWiki: answers, faults, waiting and the rate of requests."""

import time

import pytest

from vl_ltr_jax.data.wiki.mediawiki import MediaWiki, WikiError
from worlds.fake_wiki import as_json, waits, wiki

__all__ = ["waits", "wiki"]  # fixtures

BUSY = {"error": {"code": "maxlag", "info": "Waiting for db1: 6 seconds lagged."}}


def client(wiki):
    return MediaWiki(wiki.api, requests_per_second=2000)


def test_throttling_and_failures_are_waited_for(wiki, waits):
    """Breaks without Retry-After, or when a maxlag error counts as an answer."""
    wiki.texts = {"Lion": "A cat."}
    wiki.faults = [
        *[(429, {"Retry-After": "7"}, b"slow down"), (503, {}, b"down")],
        *[as_json(BUSY, **{"Retry-After": "9"}), as_json(BUSY)],
    ]
    page = client(wiki).page("lion")
    assert page is not None and page.text == "A cat."
    assert [wait for wait in waits if wait >= 1] == [7, 5, 9, 5]


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ((200, {"Content-Type": "text/html"}, b"<p>Log in</p>"), "Log in.*api.php"),
        ((403, {}, b"Set a user agent"), "403.*--contact"),
        (as_json([1]), "--api"),
        (as_json({"error": {"code": "badvalue", "info": "Why"}}), "badvalue: Why"),
        (as_json({"query": {"pages": {"1": {"pageid": 1}}}}), "formatversion"),
        (as_json({"query": {"pages": [{"pageid": 1}]}}), "TextExtracts"),
        (as_json({"query": {}, "continue": [1]}), "formatversion"),
    ],
    ids=range(7),
)
def test_other_answers_are_explained(wiki, reply, words):
    wiki.faults = [reply]
    with pytest.raises(WikiError, match=words):
        client(wiki).page("Lion")
    assert len(wiki.queries) == 1


def test_a_busy_wiki_is_given_up(wiki, waits):
    wiki.faults = [(503, {}, b"Overloaded")] * 7
    with pytest.raises(WikiError, match="503"):
        client(wiki).page("Lion")
    assert not wiki.faults
    wiki.faults = [as_json(BUSY)] * 12
    with pytest.raises(WikiError, match="maxlag"):
        client(wiki).page("Lion")


def test_continued_answers_are_put_together(wiki):
    """Breaks when a page is taken from the first part alone, or from the last."""
    wiki.texts, wiki.splits = {"Lion": "A cat."}, True
    wiki.disambiguations = {"Lion"}
    page = client(wiki).page("Lion")
    assert page is not None and page.text == "A cat." and page.is_disambiguation
    assert wiki.queries[1]["excontinue"] == "1" and wiki.queries[1]["titles"] == "Lion"


def test_requests_start_at_a_bounded_rate(monkeypatch):
    """Breaks when time spent on an answer is waited for again, or not counted."""
    now, starts = [100.0], []

    def sleep(seconds):
        now[0] += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", sleep)
    slow = MediaWiki(requests_per_second=2)
    for seconds in (0.0, 0.2, 3.0, 0.0, 0.0):
        slow._wait_for_turn()
        starts.append(now[0])
        now[0] += seconds
    assert starts == pytest.approx([100, 100.5, 101, 104, 104.5])


def test_names_that_are_no_titles_are_not_asked_for(wiki):
    """Breaks when `A|B` asks for two pages, or `C#` for a section of C."""
    wiki.texts = {"C": "A letter.", "File:C": "A picture."}
    assert client(wiki).page("A|B") is None and client(wiki).page("C#") is None
    assert wiki.queries == []
    page = client(wiki).page("File:C")
    assert page is not None and not page.is_article


def test_licences(monkeypatch):
    """Breaks for a host that merely ends like Wikipedia's, and one that states none."""
    monkeypatch.setattr(MediaWiki, "_query", lambda self, fields: {})
    assert MediaWiki("https://de.wikipedia.org/w/api.php").licence == "CC BY-SA 4.0"
    assert MediaWiki("https://notwikipedia.org/w/api.php").licence is None
