"""A MediaWiki on the loopback that answers `action=query`, and fails when told to."""

import contextlib
import json
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

RIGHTS = {"url": "https://example.org/by/4.0/", "text": "Attribution 4.0"}
Reply = tuple[int, dict[str, str], bytes]


def as_json(content: Any, **headers: str) -> Reply:
    kind = {"Content-Type": "application/json; charset=utf-8"}
    return 200, kind | headers, json.dumps(content, ensure_ascii=False).encode()


class FakeWiki(ThreadingHTTPServer):
    """Answers `action=query` as MediaWiki does with formatversion 2."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.texts: dict[str, str] = {}
        self.redirects: dict[str, str] = {}
        self.disambiguations: set[str] = set()
        self.queries: list[dict[str, str]] = []
        self.agents: set[str] = set()
        self.faults: list[Reply] = []  # answered first
        self.dies_after = float("inf")
        self.splits = False

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/w/api.php"

    def titles_queried(self) -> list[str]:
        return [params["titles"] for params in self.queries if "titles" in params]

    def answer(self, params: dict[str, str]) -> Any:
        assert params["action"] == "query" and params["formatversion"] == "2"
        assert params["format"] == "json" and params["maxlag"] == "5"
        if params.get("meta") == "siteinfo":
            return {"batchcomplete": True, "query": {"rightsinfo": RIGHTS}}
        if params.get("list") == "search":
            return self.search(params["srsearch"].split(), int(params["srlimit"]))
        return self.pages(params)

    def search(self, words: list[str], limit: int) -> Any:
        hits = [
            {"ns": 0, "title": title, "pageid": number, "snippet": ""}
            for number, (title, text) in enumerate(self.texts.items(), 100)
            if all(word.lower() in f"{title} {text}".lower() for word in words)
        ]
        more = {"continue": {"sroffset": limit, "continue": "-||"}}
        return {"batchcomplete": True, "query": {"search": hits[:limit]}} | (
            more if len(hits) > limit else {}
        )

    def pages(self, params: dict[str, str]) -> Any:
        query: dict[str, Any] = {}
        title = sent = params["titles"]
        assert "|" not in sent, "two titles"
        if (title := sent[:1].upper() + sent[1:]) != sent:
            query["normalized"] = [{"fromencoded": False, "from": sent, "to": title}]
        if title in self.redirects and params.get("redirects"):
            query["redirects"] = [{"from": title, "to": self.redirects[title]}]
            title = self.redirects[title]
        page: dict[str, Any] = {"ns": 6 if title.startswith("File:") else 0}
        page["title"] = title
        if title not in self.texts:
            return {
                "batchcomplete": True,
                "query": query | {"pages": [page | {"missing": True}]},
            }
        number = 100 + list(self.texts).index(title)
        later = self.splits and "excontinue" not in params
        page["pageid"] = number
        if "excontinue" not in params:
            place = urllib.parse.quote(title.replace(" ", "_"))
            page |= {
                "lastrevid": 7000 + number,
                "fullurl": f"https://w.example/{place}",
            }
            if title in self.disambiguations:
                page["pageprops"] = {"disambiguation": ""}
        if not later:
            assert params["explaintext"] == "1" and params["exsectionformat"] == "wiki"
            page["extract"] = self.texts[title]
        query["pages"] = [page]
        if later:
            more = {"excontinue": 1, "continue": "||pageprops|info"}
            return {"continue": more, "query": query}
        return {"batchcomplete": True, "query": query}


class Handler(BaseHTTPRequestHandler):
    server: FakeWiki

    def do_GET(self) -> None:
        wiki = self.server
        query = urllib.parse.urlsplit(self.path).query
        if len(wiki.queries) >= wiki.dies_after:
            return
        wiki.queries.append(dict(urllib.parse.parse_qsl(query, keep_blank_values=True)))
        wiki.agents.add(self.headers["User-Agent"])
        try:
            answer = as_json(wiki.answer(wiki.queries[-1]))
        except (AssertionError, KeyError) as unlike:
            answer = as_json(
                {"error": {"code": "unlike MediaWiki", "info": repr(unlike)}}
            )
        status, headers, body = wiki.faults.pop(0) if wiki.faults else answer
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def serving() -> Iterator[FakeWiki]:
    server = FakeWiki()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def wiki(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWiki]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as server:
        yield server


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that urllib3 would have waited."""
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    return slept
