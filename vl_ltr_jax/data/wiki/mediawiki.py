"""Pages of a MediaWiki as plain text, through its API: Wikipedia or any other wiki.

Needs the wiki's TextExtracts extension, which those of Wikimedia have. Requests go one
after another, at a bounded rate, and give way when the servers are behind.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from vl_ltr_jax import __version__
from vl_ltr_jax.logs.messages import without_passwords
from vl_ltr_jax.runtime.errors import UserError

WIKIPEDIA = "https://en.wikipedia.org/w/api.php"
# Of these characters no title has any; `|` would ask for two pages.
NOT_IN_TITLES = frozenset("#<>[]{}|")
LONGEST_TITLE = 255  # bytes
LONGEST_SEARCH = 300  # characters that Wikimedia's search accepts
WAIT = 5.0  # seconds between two tries, where the wiki names none
LONGEST_WAIT = 600.0  # seconds; a wiki that asks for more is asked another time
_TIMEOUT = (10.0, 60.0)  # seconds to connect, and between bytes
_TRIES = 12  # of a request that is put off, or whose answer breaks off
_PARTS = 20  # of one answer
_AGAIN_LATER = (
    "maxlag",
    "ratelimited",
    "cirrussearch-too-busy-error",
    "cirrussearch-backend-error",
)


class AddressError(UserError):
    """An address, a rate or a contact with which no wiki can be asked."""


class WikiError(RuntimeError):
    """A wiki that is out of reach, or answers with something else than pages."""


class _Retry(Retry):
    """Waits before the first retry as well, which urllib3 makes at once."""

    def get_backoff_time(self) -> float:
        return max(WAIT, super().get_backoff_time())

    def get_retry_after(self, response: Any) -> float | None:
        return _bounded(super().get_retry_after(response))


def _bounded(seconds: float | None) -> float | None:
    if seconds is not None and seconds > LONGEST_WAIT:
        raise WikiError(
            f"the wiki asks to wait {seconds:,.0f} s; start again later, or with fewer "
            "--requests_per_second"
        )
    return seconds


@dataclasses.dataclass(frozen=True)
class Page:
    """A page of a wiki.

    Attributes:
        title: as the wiki spells it, at the end of redirects.
        page_id: the wiki's number of the page.
        revision_id: the number of its newest revision.
        url: its address.
        text: plain text, with lines such as `== Habitat ==`; may be empty.
        is_article: whether it is in the main namespace, rather than a file or a talk.
        is_disambiguation: whether it only lists what a word can mean.
    """

    title: str
    page_id: int
    revision_id: int
    url: str
    text: str
    is_article: bool
    is_disambiguation: bool


class MediaWiki:
    """One wiki.

    Throttled and failing requests (429, 5xx, lost connections) are repeated, after the
    time that the wiki's `Retry-After` asks for.
    """

    def __init__(
        self,
        api: str = WIKIPEDIA,
        *,
        requests_per_second: float = 5.0,
        contact: str = "",
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepares a session; sends nothing yet.

        Args:
            api: the address of api.php.
            requests_per_second: at most so many requests start in a second.
            contact: a mail address or URL that the wiki's operators can write to.
            sleep: waits so many seconds.
            clock: seconds from any start.

        Raises:
            ValueError: an address that is not one of the web, a rate that is not above
                0, or a contact that no HTTP header can carry.
        """
        shown = without_passwords(api)
        try:
            address = urlsplit(api)
            host = address.hostname if address.scheme in ("http", "https") else None
        except ValueError:
            host = None
        if not host:
            raise AddressError(
                f"the API is {shown!r}; it needs an address as {WIKIPEDIA}"
            )
        if not 0 < requests_per_second < float("inf"):
            raise AddressError(
                f"requests_per_second is {requests_per_second}; it must be above 0, "
                "such as 5, or 0.2 for one in five seconds"
            )
        if not (contact.isascii() and contact.isprintable()):
            raise AddressError(
                f"the contact is {contact!r}; write it with ASCII characters, such as "
                "name@example.org"
            )
        self.api, self._address, self._host = shown, api, host
        self._sleep, self._clock = sleep, clock
        self._interval = 1 / requests_per_second
        self._next_start = clock()
        self._licence: tuple[str | None] | None = None
        self._session = requests.Session()
        # Wikimedia's policy: client/version (contact) library/version.
        self._session.headers["User-Agent"] = (
            f"vl_ltr_jax/{__version__} ({contact or 'texts of classes for VL-LTR'}) "
            f"{requests.utils.default_user_agent()}"
        )
        retry = _Retry(
            total=6,
            connect=2,
            backoff_factor=WAIT / 2,
            status_forcelist=(429, 500, 502, 503, 504),
            raise_on_status=False,
        )
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=retry))

    def page(self, title: str) -> Page | None:
        """The page of a title, or the one it redirects to; None if there is none.

        Raises:
            WikiError: the wiki is out of reach, refuses, or has no TextExtracts.
        """
        if NOT_IN_TITLES & set(title):
            return None
        with self._understood():
            return self._page(title)

    def _page(self, title: str) -> Page | None:
        fields: dict[str, str | int] = {
            "prop": "extracts|pageprops|info",
            "titles": title,
            "redirects": 1,
            "converttitles": 1,
            "explaintext": 1,
            "exsectionformat": "wiki",
            "exlimit": 1,
            "inprop": "url",
            "ppprop": "disambiguation",
        }
        found: dict[str, Any] = {}
        rest: Mapping[str, Any] = {}
        for _ in range(_PARTS):
            answer = self._query({**fields, **rest})
            for page in answer.get("query", {}).get("pages", ()):
                found |= page
            if "continue" not in answer:
                break
            rest = answer["continue"]
        else:
            raise WikiError(
                f"{self.api} does not come to an end with the page {title!r}: asked "
                f"{_PARTS} times, it still has a `continue`"
            )
        if "pageid" not in found:  # missing, invalid, special or in another wiki
            return None
        if "extract" not in found:
            raise WikiError(
                f"{self.api} gives no text for the page {title!r}; the wiki needs the "
                f"extension TextExtracts. Its warnings: {answer.get('warnings')}"
            )
        return Page(
            title=found["title"],
            page_id=found["pageid"],
            revision_id=found["lastrevid"],
            url=without_passwords(found["fullurl"]),
            text=found["extract"].strip(),
            is_article=found["ns"] == 0,
            is_disambiguation="disambiguation" in found.get("pageprops", {}),
        )

    def search(self, words: str, limit: int = 5) -> tuple[str, ...]:
        """Titles of articles for a full-text search, best first.

        Raises:
            WikiError: the wiki is out of reach or refuses.
        """
        fields = {"list": "search", "srsearch": words[:LONGEST_SEARCH]}
        with self._understood():
            answer = self._query({**fields, "srlimit": limit, "srnamespace": 0})
            hits = answer.get("query", {}).get("search", ())
            return tuple(hit["title"] for hit in hits)

    def licence(self) -> str | None:
        """The licence of the wiki's text; None where the wiki states none.

        Raises:
            WikiError: the wiki is out of reach or refuses.
        """
        if f".{self._host}".endswith(".wikipedia.org"):
            return "CC BY-SA 4.0"
        if self._licence is None:
            with self._understood():
                answer = self._query({"meta": "siteinfo", "siprop": "rightsinfo"})
                rights = answer.get("query", {}).get("rightsinfo", {})
                stated = " ".join(rights.get(key, "") for key in ("text", "url"))
            self._licence = (stated.strip() or None,)
        return self._licence[0]

    @contextlib.contextmanager
    def _understood(self) -> Iterator[None]:
        """Around the reading of an answer, of which a server may make anything."""
        try:
            yield
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as odd:
            raise WikiError(
                f"{self.api} answers in a form that MediaWiki does not have with "
                f"formatversion 2 ({type(odd).__name__}: {odd}); its version must be "
                "1.25 or later"
            ) from odd

    def _query(self, fields: Mapping[str, str | int]) -> dict[str, Any]:
        """One answer that is not an error."""
        params: dict[str, str | int]
        params = {"action": "query", "format": "json", "formatversion": 2, "maxlag": 5}
        fault = ""
        for _ in range(_TRIES):
            self._wait_for_turn()
            wait = WAIT
            try:
                response = self._session.get(
                    self._address, params={**params, **fields}, timeout=_TIMEOUT
                )
            except requests.exceptions.ChunkedEncodingError as broken_off:
                fault = f"its answers break off ({broken_off})"
            except requests.RequestException as lost:
                raise WikiError(
                    f"{self.api} is out of reach ({without_passwords(str(lost))}); "
                    "check the address and the network"
                ) from None  # which may name a proxy's password
            else:
                answer = _read(self.api, response)
                error = answer.get("error")
                if error is None:
                    return answer
                fault = f"{error.get('code')}: {error.get('info')}"
                if error.get("code") not in _AGAIN_LATER:
                    raise WikiError(f"{self.api} refuses, {fault} (asked {fields})")
                named = response.headers.get("Retry-After", "")
                if named.isdecimal():
                    wait = max(wait, _bounded(float(named)) or 0.0)
            self._sleep(wait)
        raise WikiError(f"{self.api} gives no answer in {_TRIES} tries: {fault}")

    def _wait_for_turn(self) -> None:
        now = self._clock()
        if now < self._next_start:
            self._sleep(self._next_start - now)
        self._next_start = max(now, self._next_start) + self._interval


def _read(api: str, response: requests.Response) -> dict[str, Any]:
    """The API's JSON object.

    Raises:
        WikiError: something else came, such as the page of a proxy.
    """
    try:
        answer = response.json()
    except requests.exceptions.JSONDecodeError:
        answer = None
    match answer:
        case {"error": dict()} | {"query": dict()} | {"batchcomplete": True}:
            return answer
    if response.status_code == 403:
        mend = "Wikimedia turns away clients without --contact, a mail address or URL"
    elif response.status_code == 429 or response.status_code >= 500:
        mend = "try again later, or with fewer --requests_per_second"
    else:
        mend = f"check that the address is an api.php, such as {WIKIPEDIA}, or a proxy"
    kind = response.headers.get("Content-Type", "no content type")
    start = " ".join(response.text.split())[:120]
    raise WikiError(
        f"{api} answers {response.status_code} {response.reason} with {kind} instead "
        f"of the API's JSON: {start!r}; {mend}"
    )
