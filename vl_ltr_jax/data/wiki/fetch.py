"""Texts of classes from Wikipedia or another MediaWiki, into ROOT/wiki.

VL-LTR (Section 3.1) takes the text of a class from its Wikipedia page, and publishes
the texts without the way to them. Here the title of a class's page comes from a file of
titles, or is its name. If that fails, a search for the name gives the page: its first
hit that has every word of the name.
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
    """The result of a run.

    Attributes:
      counts: classes by `title`, `exact`, `search`, `missing` and `present`.
      missing: label -> reason, for classes without a page.
      same_page: address -> label -> name, for classes that share a page.
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
    """Writes the missing texts of classes, and sources.jsonl.

    A text is also replaced if `titles` names another page than its source, unless
    somebody edited it. Texts written before an interruption are not fetched again.

    Args:
      root: directory of the data set.
      names: C names to look for, in label order.
      wiki: client.
      titles: label -> title, for some classes.
      hint: additional words for searches.
      overwrite: fetch all texts; those without a page stay.
      empty_where_missing: write an empty text for a class without a page.

    Raises:
      SourcesError: sources.jsonl is broken, or has a class under another name.
      WikiError: the wiki is out of reach or refuses.
    """
    titles = titles or {}
    store = TextStore(root)
    if not overwrite:
        _check_names(store, names)
    labels = [
        label
        for label in range(len(names))
        if overwrite or not store.has(label) or _is_outdated(store, label, titles)
    ]
    counts = collections.Counter(present=len(names) - len(labels))
    missing: dict[int, str] = {}
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    with (
        store.open(),
        console.progress_bar(
            "texts", len(names), "classes", done=counts["present"]
        ) as bar,
    ):
        for label in labels:
            name = names[label]
            page, how, query = find_page(wiki, name, title=titles.get(label), hint=hint)
            if page is not None:
                source = Source(
                    *(label, name, how, today, query, page.title, page.page_id),
                    *(page.revision_id, page.url, wiki.licence),
                )
                store.add(f"{page.text}\n", source)
            else:
                missing[label] = query
                if empty_where_missing and not store.has(label):
                    store.add("", Source(label, name, how, today))
            counts[how] += 1
            bar.update()
    return Outcome(counts, missing, store.same_page())


def summary(outcome: Outcome, names: Sequence[str]) -> str:
    """Returns the result of a run and advice, for a terminal."""
    counts = outcome.counts
    lines = [
        f"{len(names)} classes: {counts['exact']} by name, {counts['search']} by "
        f"search, {counts['title']} by --titles, {counts['missing']} not found, "
        f"{counts['present']} present before"
    ]
    if outcome.missing:
        lines.append(
            "Not found (label, name, reason). Write the titles of their pages into a "
            "file, rows `label<TAB>title`, and start again with --titles=FILE:"
        )
    for label, reason in outcome.missing.items():
        lines.append(f"{label}\t{names[label]}\t{reason}")
    if outcome.same_page:
        lines.append(
            "Warning: these classes share a page, so they have the same text. Name "
            "other pages with --titles=FILE, rows `label<TAB>title`:"
        )
    for url, sharing in outcome.same_page.items():
        classes = ", ".join(f"{label} {name}" for label, name in sharing.items())
        lines.append(f"{url}\t{classes}")
    return "\n".join(lines)


def _check_names(store: TextStore, names: Sequence[str]) -> None:
    """Raises a SourcesError if a text belongs to a class of another name."""
    for label, source in store.sources.items():
        if label < len(names) and source.name != names[label]:
            raise SourcesError(
                f"{text_path(store.root, label)}: the text is of {source.name!r}, but "
                f"the class {label} is {names[label]!r} now. Remove the text, or fetch "
                "all with --overwrite."
            )


def _is_outdated(store: TextStore, label: int, titles: Mapping[int, str]) -> bool:
    """Returns True for an unedited text of another page than `titles` names."""
    return (
        label in titles
        and store.is_as_fetched(label)
        and store.sources[label].query != titles[label]
    )
