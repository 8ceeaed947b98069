"""Fetches the text of every class from Wikipedia, or from any other MediaWiki.

    python -m vl_ltr_jax.data.fetch_text --root=ROOT --contact=name@example.org

VL-LTR (Section 3.1) takes the text of a class from its Wikipedia page, and publishes
the texts, not the way to them. Here the page of a class is the title that a file of
titles gives; else its name; else, where that is no page or only lists meanings, the
first find of a search that has every word of the name.

ROOT/wiki/desc_LABEL.txt appear whole, one after another, and ROOT/wiki/sources.jsonl
says where each came from. A class that has a text is left alone: a run that was stopped
goes on when it is started again.
"""

import argparse
import collections
import dataclasses
import datetime
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from vl_ltr_jax.commands import exits
from vl_ltr_jax.data.text.class_names import LAYOUTS
from vl_ltr_jax.data.text.files import text_path
from vl_ltr_jax.data.wiki.class_pages import find_page, read_titles, searchable_names
from vl_ltr_jax.data.wiki.mediawiki import WIKIPEDIA, MediaWiki, WikiError
from vl_ltr_jax.data.wiki.text_store import Source, SourcesError, TextStore
from vl_ltr_jax.logs import console
from vl_ltr_jax.runtime.errors import UserError
from vl_ltr_jax.storage import paths

_HELP = """\
Fetches a text for every class from Wikipedia, into ROOT/wiki/desc_LABEL.txt. A class
that has a text is left alone: a stopped run goes on when it is started again. The exit
code is 1 if a class has no text in the end."""
_EXAMPLES = """\
examples:
  # classes are those of ROOT/labels.txt, rows `class name label`
  python -m vl_ltr_jax.data.fetch_text --root=ROOT --contact=name@example.org

  # species of iNaturalist 2018, from ROOT/categories.json
  python -m vl_ltr_jax.data.fetch_text --root=ROOT --layout=inat18 --hint=species

  # classes that were not found, or had another's page: rows `label<TAB>title`
  python -m vl_ltr_jax.data.fetch_text --root=ROOT --titles=titles.txt

README.md says more under "Texts from Wikipedia"."""


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


def main(arguments: Sequence[str]) -> None:
    """Runs the command line.

    Exits with 0 if every class has a text in the end, 1 if not, 2 after a mistake in
    what was given, and 130 when interrupted.
    """
    given = _parser().parse_args(paths.expand_arguments(arguments))
    console.be_quiet(given.quiet)
    names: tuple[str, ...] = ()
    try:
        names = searchable_names(given.root, given.layout)
        titles = read_titles(given.titles, len(names)) if given.titles else {}
        wiki = MediaWiki(
            given.api,
            requests_per_second=given.requests_per_second,
            contact=given.contact,
        )
        outcome = fetch_texts(
            given.root,
            names,
            wiki,
            titles=titles,
            hint=given.hint,
            overwrite=given.overwrite,
            empty_where_missing=given.missing == "empty",
        )
    except UserError as error:
        exits.refuse(error)
    except (WikiError, OSError, KeyboardInterrupt) as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        console.error(
            f"{'interrupted' if interrupted else error}\n"
            f"{_number_of_texts(given.root, names)} of {len(names)} classes have a "
            "text; start the same command again to go on (--overwrite starts over)"
        )
        sys.exit(130 if interrupted else 1)
    print(console.printable(summary(outcome, names), "\n\t"))
    sys.exit(0 if _number_of_texts(given.root, names) == len(names) else 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m vl_ltr_jax.data.fetch_text",
        description=_HELP,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = parser.add_argument
    option("--root", required=True, metavar="DIR", help="the data set's directory")
    option(
        "--layout",
        choices=LAYOUTS,
        default="plain",
        help="whose file of class names it has (%(default)s: labels.txt)",
    )
    option(
        "--api",
        default=WIKIPEDIA,
        metavar="URL",
        help="api.php of another MediaWiki (%(default)s)",
    )
    option(
        "--hint",
        default="",
        metavar="WORDS",
        help="what searches are given besides the name, such as species",
    )
    option("--titles", metavar="FILE", help="pages of classes: rows label<TAB>title")
    option(
        "--requests_per_second",
        type=float,
        default=5.0,
        metavar="N",
        help="at most (%(default)s)",
    )
    option(
        "--contact",
        default="",
        metavar="WHO",
        help="a mail address or URL of yours, for the wiki's people",
    )
    option("--overwrite", action="store_true", help="fetch all texts anew")
    option(
        "--missing",
        choices=("stop", "empty"),
        default="stop",
        help="where no page is found, have no text, which stops a training from "
        "starting (%(default)s); or an empty one, which leaves prompts alone",
    )
    option("--quiet", action="store_true", help="show no progress")
    return parser


def _number_of_texts(root: str | Path, names: Sequence[str]) -> int:
    return sum(text_path(root, label).is_file() for label in range(len(names)))


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


if __name__ == "__main__":
    main(sys.argv[1:])
