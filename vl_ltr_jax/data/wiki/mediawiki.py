"""Pages of a MediaWiki as plain text, through its API: Wikipedia or any other wiki.

The wiki needs the extension TextExtracts, which those of Wikimedia have. Requests go
one after another, at a bounded rate. They wait while the servers are behind.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from vl_ltr_jax import __version__
from vl_ltr_jax.logs.messages import without_passwords
from vl_ltr_jax.runtime.errors import UserError

WIKIPEDIA = "https://en.wikipedia.org/w/api.php"
_NOT_IN_TITLES = frozenset("#<>[]{}|")  # `|` would ask for two pages
_MAX_SEARCH_CHARS = 300  # Wikimedia's search refuses more
_RETRY_SECONDS = 5.0
_TIMEOUT = (10.0, 60.0)  # seconds to connect, and between bytes
_MAX_TRIES = 12
_BUSY = (
    "maxlag",
    "ratelimited",
    "cirrussearch-too-busy-error",
    "cirrussearch-backend-error",
)


class AddressError(UserError):
    """An address or a rate that makes no requests."""


class WikiError(RuntimeError):
    """A wiki that is out of reach, or that gives no pages."""


@dataclasses.dataclass(frozen=True)
class Page:
    """A page of a wiki.

    Attributes:
      title: as the wiki spells it, after redirects.
      revision_id: newest revision.
      text: plain text, with lines such as `== Habitat ==`; may be empty.
      is_article: True for the main namespace, False for files, talks, ...
      is_disambiguation: True for a list of the meanings of a word.
    """

    title: str
    page_id: int
    revision_id: int
    url: str
    text: str
    is_article: bool
    is_disambiguation: bool


class MediaWiki:
    """The client of one wiki.

    Requests that fail (429, 5xx, lost connections) are repeated after the time of the
    wiki's `Retry-After`.

    Attributes:
      api: address without passwords, for messages.
    """

    def __init__(
        self,
        api: str = WIKIPEDIA,
        *,
        requests_per_second: float = 5.0,
        contact: str = "",
    ) -> None:
        """Prepares a session; sends nothing yet.

        Args:
          api: address of api.php.
          requests_per_second: maximum rate.
          contact: mail address or URL for the operators of the wiki.

        Raises:
          AddressError: an argument is unusable.
        """
        self.api, self._address = without_passwords(api), api
        if not api.startswith(("http://", "https://")):
            raise AddressError(f"--api={self.api}: no web address, as {WIKIPEDIA} is.")
        if not 0 < requests_per_second < float("inf"):
            raise AddressError(
                f"--requests_per_second={requests_per_second}: not above 0. Take 5, or "
                "0.2 for one in five seconds."
            )
        self._interval = 1 / requests_per_second
        self._next_start = time.monotonic()
        self._session = requests.Session()
        # Wikimedia's policy: client/version (contact) library/version.
        self._session.headers["User-Agent"] = (
            f"vl_ltr_jax/{__version__} ({contact or 'texts of classes for VL-LTR'}) "
            f"{requests.utils.default_user_agent()}"
        )
        retry = Retry(
            total=6,
            connect=2,
            backoff_factor=_RETRY_SECONDS / 2,
            status_forcelist=(429, 500, 502, 503, 504),
            raise_on_status=False,
        )
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=retry))

    def page(self, title: str) -> Page | None:
        """Returns the page of a title or of its redirect; None if it is absent.

        Raises:
          WikiError: the wiki is out of reach, refuses, or has no TextExtracts.
        """
        if _NOT_IN_TITLES & set(title):
            return None
        fields: dict[str, Any] = {
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
        parts: dict[str, Any] = {}
        following: dict[str, Any] | None = {}
        with self._known_form():
            while following is not None:
                answer = self._query(fields | following)
                for part in answer.get("query", {}).get("pages", ()):
                    parts |= part
                following = answer.get("continue")
            if "pageid" not in parts:  # missing, invalid, special or in another wiki
                return None
            if "extract" not in parts:
                raise WikiError(
                    f"{self.api} gives no text for the page {title!r}: the wiki needs "
                    f"the extension TextExtracts. Warnings: {answer.get('warnings')}"
                )
            return Page(
                title=parts["title"],
                page_id=parts["pageid"],
                revision_id=parts["lastrevid"],
                url=without_passwords(parts["fullurl"]),
                text=parts["extract"].strip(),
                is_article=parts["ns"] == 0,
                is_disambiguation="disambiguation" in parts.get("pageprops", {}),
            )

    def search(self, words: str, limit: int = 5) -> tuple[str, ...]:
        """Returns the titles of articles for a full-text search, best first.

        Raises:
          WikiError: the wiki is out of reach or refuses.
        """
        fields = {"list": "search", "srsearch": words[:_MAX_SEARCH_CHARS]}
        with self._known_form():
            answer = self._query({**fields, "srlimit": limit, "srnamespace": 0})
            hits = answer.get("query", {}).get("search", ())
            return tuple(hit["title"] for hit in hits)

    @functools.cached_property
    def licence(self) -> str | None:
        """Licence that the wiki states for its text, or None.

        Raises:
          WikiError: the wiki is out of reach or refuses.
        """
        if self._address.split("/")[2].endswith(".wikipedia.org"):
            return "CC BY-SA 4.0"
        with self._known_form():
            answer = self._query({"meta": "siteinfo", "siprop": "rightsinfo"})
            rights = answer.get("query", {}).get("rightsinfo", {})
            stated = " ".join(rights.get(key, "") for key in ("text", "url"))
        return stated.strip() or None

    @contextlib.contextmanager
    def _known_form(self) -> Iterator[None]:
        """Raises a WikiError for an answer of another form than MediaWiki's."""
        try:
            yield
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise WikiError(
                f"{self.api} answers in an unknown form ({type(error).__name__}: "
                f"{error}). MediaWiki must be 1.25 or later, with formatversion 2."
            ) from error

    def _query(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Returns an answer without an error."""
        params: dict[str, Any] = {"action": "query", "format": "json"}
        params |= {"formatversion": 2, "maxlag": 5, **fields}
        for _ in range(_MAX_TRIES):
            self._wait_for_turn()
            try:
                response = self._session.get(
                    self._address, params=params, timeout=_TIMEOUT
                )
            except requests.RequestException as error:
                raise WikiError(
                    f"{self.api} is out of reach ({without_passwords(str(error))}). "
                    "Check the address and the network."
                ) from None  # the cause may name a proxy's password
            answer = self._json(response)
            if "error" not in answer:
                return answer
            code = answer["error"].get("code")
            fault = f"{code}: {answer['error'].get('info')}"
            if code not in _BUSY:
                raise WikiError(f"{self.api} refuses, {fault} (asked {fields})")
            seconds = response.headers.get("Retry-After", "")
            time.sleep(float(seconds) if seconds.isdecimal() else _RETRY_SECONDS)
        raise WikiError(f"{self.api} gives no answer in {_MAX_TRIES} tries: {fault}")

    def _wait_for_turn(self) -> None:
        now = time.monotonic()
        if now < self._next_start:
            time.sleep(self._next_start - now)
        self._next_start = max(now, self._next_start) + self._interval

    def _json(self, response: requests.Response) -> dict[str, Any]:
        """Returns the API's JSON object.

        Raises:
          WikiError: the response is something else, such as the page of a proxy.
        """
        with contextlib.suppress(ValueError):
            answer = response.json()
            if (
                isinstance(answer, dict)
                and {"error", "query", "batchcomplete"} & answer.keys()
            ):
                return answer
        raise WikiError(
            f"{self.api} answers {response.status_code} {response.reason} without the "
            f"API's JSON: {' '.join(response.text.split())[:120]!r}. Check that --api "
            "is an api.php, name a --contact, or take fewer --requests_per_second."
        )
