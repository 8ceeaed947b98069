"""The client of a MediaWiki: answers, faults, waiting and the rate of requests."""

import pytest

from vl_ltr_jax.data.wiki.mediawiki import MediaWiki, WikiError
from worlds.fake_wiki import FakeWiki, Reply, as_json, waits, wiki

__all__ = ["waits", "wiki"]  # fixtures

BUSY = {"error": {"code": "maxlag", "info": "Waiting for db1: 6 seconds lagged."}}


def test_throttling_and_failures_are_waited_for(
    wiki: FakeWiki, waits: list[float]
) -> None:
    """Breaks without Retry-After, without a wait before the first retry, or when a
    maxlag error counts as an answer."""
    wiki.texts = {"Lion": "A cat."}
    wiki.faults = [(429, {"Retry-After": "7"}, b"slow down"), (503, {}, b"down")]
    slept: list[float] = []
    client = MediaWiki(wiki.api, sleep=slept.append, clock=lambda: 0.0)
    page = client.page("lion")
    assert page is not None and page.text == "A cat."
    assert waits == [7, 5] and len(wiki.asked) == 3 and slept == []
    wiki.faults = [as_json(BUSY, **{"Retry-After": "9"}), as_json(BUSY)]
    assert client.page("lion") == page
    assert [wait for wait in slept if wait >= 5] == [9, 5]


def test_an_answer_that_breaks_off_is_asked_for_again(wiki: FakeWiki) -> None:
    wiki.texts = {"Lion": "A cat."}
    wiki.faults = [(200, {"Content-Length": "1000"}, b'{"batchcomplete": tr')]
    slept: list[float] = []
    page = MediaWiki(wiki.api, sleep=slept.append).page("Lion")
    assert page is not None and 5 in slept


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ((200, {"Content-Type": "text/html"}, b"<p>Log in</p>"), "Log in.*api.php"),
        ((403, {}, b"Set a user agent"), "403.*--contact"),
        ((404, {}, b""), "404.*api.php"),
        (as_json([1]), "instead of the API's JSON"),
        (as_json({"error": "no"}), "instead of the API's JSON"),
        (as_json({"status": "ok"}), "instead of the API's JSON"),
        (as_json({"error": {"code": "badvalue", "info": "Why"}}), "badvalue: Why"),
    ],
    ids=range(7),
)
def test_other_answers_are_explained(wiki: FakeWiki, reply: Reply, words: str) -> None:
    wiki.faults = [reply]
    with pytest.raises(WikiError, match=words):
        MediaWiki(wiki.api, requests_per_second=2000).page("Lion")
    assert len(wiki.asked) == 1


def test_wikis_that_never_give_a_text(wiki: FakeWiki, waits: list[float]) -> None:
    wiki.texts = {"Lion": "A cat."}
    client = MediaWiki(wiki.api, sleep=lambda seconds: None)
    wiki.faults = [(503, {}, b"Overloaded")] * 7
    with pytest.raises(WikiError, match="503.*Overloaded.*requests_per_second"):
        client.page("Lion")
    assert waits == [5, 5, 10, 20, 40, 80] and not wiki.faults
    wiki.faults = [as_json(BUSY)] * 12
    with pytest.raises(WikiError, match="12 tries: maxlag: Waiting for db1"):
        client.page("Lion")
    wiki.faults = [as_json({"query": {}, "continue": {"excontinue": 1}})] * 20
    with pytest.raises(WikiError, match="does not come to an end"):
        client.page("Lion")
    wiki.has_no_extracts = True
    with pytest.raises(WikiError, match="TextExtracts"):
        client.page("Lion")


def test_continued_answers_are_put_together(wiki: FakeWiki) -> None:
    """Breaks when a page is taken from the first part alone, or from the last."""
    wiki.texts, wiki.splits = {"Lion": "A cat."}, True
    wiki.disambiguations = {"Lion"}
    page = MediaWiki(wiki.api, requests_per_second=2000).page("Lion")
    assert page is not None and page.text == "A cat." and page.is_disambiguation
    assert wiki.asked[1]["excontinue"] == "1" and wiki.asked[1]["titles"] == "Lion"


def test_requests_start_at_a_bounded_rate(wiki: FakeWiki) -> None:
    """Breaks when time spent on an answer is waited for again, or not counted."""
    now, starts = [100.0], []
    costs = iter([0.0, 0.2, 3.0, 0.0, 0.0])

    def request() -> None:
        starts.append(now[0])
        now[0] += next(costs)

    def sleep(seconds: float) -> None:
        now[0] += seconds

    wiki.on_request = request
    client = MediaWiki(
        wiki.api, requests_per_second=2, sleep=sleep, clock=lambda: now[0]
    )
    for _ in range(5):
        client.page("Lion")
    assert starts == pytest.approx([100, 100.5, 101, 104, 104.5])


def test_names_that_are_no_titles_are_not_asked_for(wiki: FakeWiki) -> None:
    """Breaks when `A|B` asks for two pages, or `C#` for a section of C."""
    wiki.texts = {"C": "A letter.", "File:C": "A picture."}
    client = MediaWiki(wiki.api, requests_per_second=2000)
    assert client.page("A|B") is None and client.page("C#") is None
    assert wiki.asked == []
    page = client.page("File:C")
    assert page is not None and not page.is_article


def test_licences(monkeypatch: pytest.MonkeyPatch) -> None:
    """Breaks for a host that merely ends like Wikipedia's, and one that states none."""
    monkeypatch.setattr(MediaWiki, "_query", lambda self, fields: {})
    assert MediaWiki().licence() == "CC BY-SA 4.0"
    assert MediaWiki("https://de.wikipedia.org/w/api.php").licence() == "CC BY-SA 4.0"
    assert MediaWiki("https://notwikipedia.org/w/api.php").licence() is None


PAGE = {"pageid": 1, "ns": 0, "title": "Lion", "lastrevid": 2, "fullurl": "u"}


@pytest.mark.parametrize(
    "answer",
    [
        {"query": {"pages": [PAGE | {"extract": None}]}},
        {"query": {"pages": None}},
        {"query": {"pages": {"1": PAGE}}},
        {"query": {"pages": [{"pageid": 1, "extract": "A cat."}]}},
        {"query": {"pages": [PAGE]}, "continue": [1]},
    ],
    ids=range(5),
)
def test_answers_of_another_form_are_no_tracebacks(
    wiki: FakeWiki, answer: object
) -> None:
    """As of a wiki before formatversion 2, whose pages are an object."""
    wiki.faults = [as_json(answer)]
    with pytest.raises(WikiError, match="formatversion 2|comes? to an end|no text"):
        MediaWiki(wiki.api, sleep=lambda seconds: None).page("Lion")


def test_a_search_and_a_licence_of_another_form(wiki: FakeWiki) -> None:
    client = MediaWiki(wiki.api, sleep=lambda seconds: None)
    wiki.faults = [as_json({"query": {"search": "none"}})]
    with pytest.raises(WikiError, match="formatversion 2"):
        client.search("Lion")
    wiki.faults = [as_json({"query": {"rightsinfo": []}})]
    with pytest.raises(WikiError, match="formatversion 2"):
        client.licence()
    wiki.faults = [(200, {"Content-Type": "application/json"}, b"[" * 100_000)]
    with pytest.raises(WikiError):
        client.search("Lion")


@pytest.mark.parametrize(
    "reply",
    [
        (429, {"Retry-After": "99999999"}, b"slow down"),
        as_json(BUSY, **{"Retry-After": "9" * 30}),
    ],
    ids=["429", "maxlag"],
)
def test_nobody_waits_for_years(
    wiki: FakeWiki, waits: list[float], reply: Reply
) -> None:
    slept: list[float] = []
    wiki.faults = [reply]
    with pytest.raises(WikiError, match="asks to wait .* s; start again later"):
        MediaWiki(wiki.api, sleep=slept.append, clock=lambda: 0.0).page("Lion")
    assert sum([*waits, *slept]) < 10
