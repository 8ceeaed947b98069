"""Fetches the text of every class from Wikipedia, or from any other MediaWiki.

VL-LTR (Section 3.1) takes the text of a class from its Wikipedia page, and publishes
the texts, not the way to them. Here the page of a class is the title that a file of
titles gives; else its name; else, where that is no page or only lists meanings, the
first find of a search that has every word of the name.

ROOT/wiki/desc_LABEL.txt appear whole, one after another, and ROOT/wiki/sources.jsonl
says where each came from. A class that has a text is left alone: a run that was stopped
goes on when it is started again.
"""

import collections
import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path

from vl_ltr_jax.data.text.files import text_path
from vl_ltr_jax.data.wiki.class_pages import find_page
from vl_ltr_jax.data.wiki.mediawiki import MediaWiki
from vl_ltr_jax.data.wiki.text_store import Source, SourcesError, TextStore
from vl_ltr_jax.logs import console


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run did.

    Attributes:
        counts: of classes, by `title`, `exact`, `search`, `missing` and `there`.
        missing: label -> why no page was found.
        same_page: address of a page -> label -> name, of the classes that share it.
    """

    counts: Mapping[str, int]
    missing: Mapping[int, str]
    same_page: Mapping[str, Mapping[int, str]]


def fetch_texts(
    root: str | Path,
    names: Sequence[str],
    wiki: MediaWiki,
    *,
    titles: Mapping[int, str] | None = None,
    hint: str = "",
    overwrite: bool = False,
    empty_where_missing: bool = False,
) -> Outcome:
    """Writes the texts of classes that have none, and sources.jsonl.

    A class gets a text anew where `titles` has another page for it than its text was
    fetched from, if nobody edited that text since. What was written before an error or
    an interruption stays, and is not fetched again.

    Args:
        root: the data set's directory.
        names: C names to look for, in label order.
        wiki: where to look.
        titles: label -> title, of any classes.
        hint: words that a search gets besides the name.
        overwrite: fetch all texts anew; one whose page is not found stays.
        empty_where_missing: write an empty text where no page is found.

    Raises:
        ValueError: sources.jsonl is broken, or has a class under another name.
        WikiError: the wiki is out of reach or refuses.
    """
    titles = titles or {}
    store = TextStore(root)
    if not overwrite:
        _check_names(store, names)
    lacking = [
        label
        for label in range(len(names))
        if overwrite or not store.has(label) or _is_outdated(store, label, titles)
    ]
    counts = collections.Counter(there=len(names) - len(lacking))
    missing: dict[int, str] = {}
    with (
        store.open(),
        console.Progress("texts", len(names), "classes", done=counts["there"]) as line,
    ):
        for label in lacking:
            name = names[label]
            page, how, asked = find_page(wiki, name, title=titles.get(label), hint=hint)
            if page is not None:
                source = Source(
                    label=label,
                    name=name,
                    how=how,
                    retrieved=_today(),
                    asked=asked,
                    title=page.title,
                    page_id=page.page_id,
                    revision_id=page.revision_id,
                    url=page.url,
                    licence=wiki.licence(),
                )
                store.add(f"{page.text}\n", source)
            else:
                missing[label] = asked
                if empty_where_missing and not store.has(label):
                    store.add("", Source(label, name, how, _today()))
            counts[how] += 1
            line.at(line.n + 1, details=[name])
    return Outcome(counts, missing, store.same_page())


def summary(outcome: Outcome, names: Sequence[str]) -> str:
    """What a run did, and how to mend what it did not find, for a terminal."""
    counts = outcome.counts
    lines = [
        f"{len(names)} classes: {counts['exact']} by name, {counts['search']} by "
        f"search, {counts['title']} by --titles, {counts['missing']} not found, "
        f"{counts['there']} there before"
    ]
    if outcome.missing:
        lines.append(
            "Not found (label, name, why). Write rows `label<TAB>title` with titles of "
            "their pages into a file, and start again with --titles=FILE:"
        )
    for label, why in outcome.missing.items():
        lines.append(f"{label}\t{names[label]}\t{why}")
    if outcome.same_page:
        lines.append(
            "Warning: these classes have the same page, hence the same text. Give them "
            "pages of their own with --titles=FILE, rows `label<TAB>title`:"
        )
    for url, sharing in outcome.same_page.items():
        classes = ", ".join(f"{label} {name}" for label, name in sharing.items())
        lines.append(f"{url}\t{classes}")
    return "\n".join(lines)


def _check_names(store: TextStore, names: Sequence[str]) -> None:
    """Texts of labels that moved to other classes would be wrong."""
    for label, source in store.sources.items():
        if label < len(names) and source.name != names[label]:
            raise SourcesError(
                f"{text_path(store.root, label)} is of {source.name!r}, says "
                f"{store.path}, but the class {label} is {names[label]!r} now; remove "
                "that text, or fetch all anew with --overwrite"
            )


def _is_outdated(store: TextStore, label: int, titles: Mapping[int, str]) -> bool:
    """Whether a text is as it was fetched, but from another page than asked for."""
    return (
        label in titles
        and store.is_as_fetched(label)
        and store.sources[label].asked != titles[label]
    )


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()
