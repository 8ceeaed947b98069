"""Fetched texts of classes with their sources: ROOT/wiki/sources.jsonl."""

import collections
import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from vl_ltr_jax.data.text.files import text_path
from vl_ltr_jax.runtime.errors import UserError
from vl_ltr_jax.storage import atomic


class SourcesError(UserError):
    """Sources of texts that are malformed or belong to other classes."""


@dataclasses.dataclass(frozen=True)
class Source:
    """The source of a class's text.

    Attributes:
      name: class name of the search.
      how: `title` (from the user), `exact` (the name), `search`, or `missing`.
      retrieved: day in UTC, as 2025-12-31.
      query: title or words that led to the page.
      title: title of the page on the wiki.
      revision_id: newest revision of the page at that time.
      sha256: hash of the file; an edited text has another.
    """

    label: int
    name: str
    how: str
    retrieved: str
    query: str | None = None
    title: str | None = None
    page_id: int | None = None
    revision_id: int | None = None
    url: str | None = None
    licence: str | None = None
    sha256: str = ""


class TextStore:
    """Texts of classes and their sources, on disk.

    Attributes:
      path: path of sources.jsonl.
      sources: label -> source of a fetched text.
    """

    def __init__(self, root: str | Path) -> None:
        """Reads sources.jsonl.

        The last row of a label counts. The last row of the file may be incomplete, from
        a run that was killed.

        Raises:
          SourcesError: a row is malformed.
        """
        self.root = Path(root)
        self.path = text_path(root, 0).with_name("sources.jsonl")
        self.sources: dict[int, Source] = {}
        lines = self.path.read_bytes().split(b"\n") if self.path.is_file() else []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                source = Source(**json.loads(line))
                self.sources[int(source.label)] = source
            except (ValueError, TypeError) as error:
                if number < len(lines):
                    raise SourcesError(
                        f"{self.path}:{number}: no row of sources ({error}). Remove "
                        "the line; the texts stay."
                    ) from None
        self._forget_lost_texts()

    def has(self, label: int) -> bool:
        """Returns True if the class has a text, which may be empty."""
        return text_path(self.root, label).is_file()

    def is_as_fetched(self, label: int) -> bool:
        """Returns True if the text was fetched and nobody edited it since."""
        if label not in self.sources:
            return False
        text = text_path(self.root, label).read_bytes()
        return hashlib.sha256(text).hexdigest() == self.sources[label].sha256

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Allows `add` inside the block, and writes one row per class at its end."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._write_sources()
        try:
            yield
        finally:
            self._forget_lost_texts()
            self._write_sources()

    def add(self, text: str, source: Source) -> None:
        """Writes the text of a class, whole or not at all, and its source."""
        content = text.encode()
        digest = hashlib.sha256(content).hexdigest()
        source = dataclasses.replace(source, sha256=digest)
        self.sources[source.label] = source
        # The row first: a text without a row would never get one.
        with self.path.open("ab") as rows:
            rows.write(_row(source))
        with atomic.write(text_path(self.root, source.label)) as file:
            file.write(content)

    def same_page(self) -> dict[str, dict[int, str]]:
        """Returns label -> name of the classes that share a page, by its address."""
        sharing: dict[str, dict[int, str]] = collections.defaultdict(dict)
        for label, source in self.sources.items():
            if source.url is not None:
                sharing[source.url][label] = source.name
        return {url: classes for url, classes in sharing.items() if len(classes) > 1}

    def _forget_lost_texts(self) -> None:
        by_label = sorted(self.sources.items())
        self.sources = {label: source for label, source in by_label if self.has(label)}

    def _write_sources(self) -> None:
        with atomic.write(self.path) as file:
            file.writelines(map(_row, self.sources.values()))


def _row(source: Source) -> bytes:
    row = dataclasses.asdict(source)
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"
