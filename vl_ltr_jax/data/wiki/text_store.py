"""Where the text of each class came from: ROOT/wiki/sources.jsonl, a row per class."""

import collections
import contextlib
import dataclasses
import hashlib
import json
import operator
from collections.abc import Iterator, Mapping
from pathlib import Path

from vl_ltr_jax.data.text.files import text_path
from vl_ltr_jax.runtime.errors import UserError
from vl_ltr_jax.storage import atomic


class SourcesError(UserError):
    """Sources of texts that are malformed."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Where the text of a class comes from.

    Attributes:
        label: the class.
        name: its name, as it was looked for.
        how: `title` (given by the user), `exact` (the name), `search`, or `missing`.
        retrieved: the day, as 2025-12-31, in UTC.
        asked: the title or the words that led to the page.
        title: the page's title on the wiki.
        page_id: its number there.
        revision_id: the number of its newest revision at that time.
        url: its address.
        licence: of the text.
        sha256: of the file; tells a text that was edited since.
    """

    label: int
    name: str
    how: str
    retrieved: str
    asked: str | None = None
    title: str | None = None
    page_id: int | None = None
    revision_id: int | None = None
    url: str | None = None
    licence: str | None = None
    sha256: str = ""


class TextStore:
    """Texts of classes and their sources, on disk.

    Attributes:
        path: of sources.jsonl.
        sources: label -> source, of the classes whose text was fetched.
    """

    def __init__(self, root: str | Path) -> None:
        """Reads the sources of the texts that are there.

        Of several rows of a label the last one counts, and the last row of the file may
        be torn off, where a run was killed.

        Args:
            root: the data set's directory.

        Raises:
            ValueError: a row that is none; names the file and the line.
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
                self.sources[operator.index(source.label)] = source
            except (ValueError, TypeError) as fault:
                if number < len(lines):
                    raise SourcesError(
                        f"{self.path}:{number}: not a row of sources ({fault}); take "
                        "the line out, the texts stay as they are"
                    ) from None
        self._forget_lost_texts()

    def has(self, label: int) -> bool:
        """Whether the class has a text, which may be empty."""
        return text_path(self.root, label).is_file()

    def is_as_fetched(self, label: int) -> bool:
        """Whether the text was fetched, and nobody edited it since."""
        if label not in self.sources:
            return False
        text = text_path(self.root, label).read_bytes()
        return hashlib.sha256(text).hexdigest() == self.sources[label].sha256

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """While this is open, `add` may be called; leaves one row per class."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._write_sources()
        try:
            yield
        finally:
            self._forget_lost_texts()
            self._write_sources()

    def add(self, text: str, source: Source) -> None:
        """Writes the text of a class, whole or not at all, and its source.

        Args:
            text: of the class.
            source: without the hash, which is made here.
        """
        content = text.encode()
        digest = hashlib.sha256(content).hexdigest()
        source = dataclasses.replace(source, sha256=digest)
        self.sources[source.label] = source
        # The row first: a text without one would never get it.
        with self.path.open("ab") as rows:
            rows.write(_row(source))
        with atomic.write(text_path(self.root, source.label)) as file:
            file.write(content)

    def same_page(self) -> dict[str, dict[int, str]]:
        """Address of a page -> label -> name, of classes that share their page."""
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
    row: Mapping[str, object] = dataclasses.asdict(source)
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"
