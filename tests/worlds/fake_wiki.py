"""A MediaWiki on the loopback that answers `action=query`, and fails when told to."""

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
            return {"query": {"rightsinfo": RIGHTS}}
        if params.get("list") == "search":
            words = params["srsearch"].lower().split()
            hits = [
                {"ns": 0, "title": title}
                for title, text in self.texts.items()
                if all(word in f"{title} {text}".lower() for word in words)
            ]
            return {"query": {"search": hits[: int(params["srlimit"])]}}
        return self.pages(params)

    def pages(self, params: dict[str, str]) -> Any:
        assert params["redirects"] == params["explaintext"] == "1"
        assert params["exsectionformat"] == "wiki" and "|" not in params["titles"]
        title = params["titles"][:1].upper() + params["titles"][1:]
        title = self.redirects.get(title, title)
        page: dict[str, Any] = {"ns": 6 if title.startswith("File:") else 0}
        page["title"] = title
        if title not in self.texts:
            return {"query": {"pages": [page | {"missing": True}]}}
        number = 100 + list(self.texts).index(title)
        page["pageid"] = number
        if "excontinue" not in params:
            place = urllib.parse.quote(title.replace(" ", "_"))
            page |= {
                "lastrevid": 7000 + number,
                "fullurl": f"https://w.example/{place}",
            }
            if title in self.disambiguations:
                page["pageprops"] = {"disambiguation": ""}
        answer: dict[str, Any] = {"query": {"pages": [page]}}
        if self.splits and "excontinue" not in params:
            more = {"excontinue": 1, "continue": "||pageprops|info"}
            return {"continue": more, **answer}
        page["extract"] = self.texts[title]
        return answer


class Handler(BaseHTTPRequestHandler):
    server: FakeWiki

    def do_GET(self) -> None:
        wiki = self.server
        query = urllib.parse.urlsplit(self.path).query
        if len(wiki.queries) >= wiki.dies_after:
            return
        wiki.queries.append(dict(urllib.parse.parse_qsl(query, keep_blank_values=True)))
        wiki.agents.add(self.headers["User-Agent"])
        answer = as_json(wiki.answer(wiki.queries[-1]))
        status, headers, body = wiki.faults.pop(0) if wiki.faults else answer
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Logs nothing."""


@pytest.fixture
def wiki(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWiki]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with FakeWiki() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that urllib3 would have waited."""
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    return slept
