"""Download of the text of every class from Wikipedia, or from another MediaWiki.

    python -m vl_ltr_jax.data.fetch_text --root=ROOT --contact=name@example.org

:mod:`vl_ltr_jax.data.wiki.fetch` describes the files.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from vl_ltr_jax.commands import exits, process
from vl_ltr_jax.commands.command import Command, parse
from vl_ltr_jax.data.text.class_names import LAYOUTS
from vl_ltr_jax.data.text.files import text_path
from vl_ltr_jax.data.wiki.class_pages import read_titles, searchable_names
from vl_ltr_jax.data.wiki.fetch import fetch_texts, summary
from vl_ltr_jax.data.wiki.mediawiki import WIKIPEDIA, MediaWiki, WikiError
from vl_ltr_jax.logs import console, messages

COMMAND = Command(
    "vl_ltr_jax.data.fetch_text",
    "Fetches a text for every class from Wikipedia, into ROOT/wiki/desc_LABEL.txt. "
    "Texts that exist stay, so a stopped command goes on when it is started again. The "
    "exit code is 1 if a class lacks a text at the end. vl_ltr_jax/data/wiki/README.md "
    "has more.",
    (
        (
            "classes of ROOT/labels.txt, rows `class name label`",
            "--root=ROOT --contact=name@example.org",
        ),
        (
            "species of iNaturalist 2018, from ROOT/categories.json",
            "--root=ROOT --layout=inat18 --hint=species",
        ),
        (
            "classes without a page, or with a wrong one: rows `label<TAB>title`",
            "--root=ROOT --titles=titles.txt",
        ),
    ),
)


@exits.with_codes
def main(arguments: Sequence[str]) -> int:
    """Runs the command line and returns its exit code.

    It is 0 if every class has a text at the end, else 1. A user's mistake gives 2, an
    interrupt 130.
    """
    parsed = parse(_parser(), arguments)
    names = searchable_names(parsed.root, parsed.layout)
    titles = read_titles(parsed.titles, len(names)) if parsed.titles else {}
    wiki = MediaWiki(
        parsed.api,
        requests_per_second=parsed.requests_per_second,
        contact=parsed.contact,
    )
    try:
        outcome = fetch_texts(
            parsed.root,
            names,
            wiki,
            titles=titles,
            hint=parsed.hint,
            overwrite=parsed.overwrite,
            empty_where_missing=parsed.missing == "empty",
        )
    except (WikiError, OSError, KeyboardInterrupt) as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        console.error(
            f"{'interrupted' if interrupted else error}\n"
            f"{_number_of_texts(parsed.root, names)} of {len(names)} classes have a "
            "text. Start the same command again to go on (--overwrite starts over)."
        )
        return 130 if interrupted else 1
    print(messages.printable(summary(outcome, names), "\n\t"))
    return 0 if _number_of_texts(parsed.root, names) == len(names) else 1


def _parser() -> argparse.ArgumentParser:
    parser = COMMAND.parser(quiet=True)
    option = parser.add_argument
    option("--root", required=True, metavar="DIR", help="the data set's directory")
    option(
        "--layout",
        choices=LAYOUTS,
        default="plain",
        help="form of its class names (%(default)s: labels.txt)",
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
        help="words added to each search, such as species",
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
        help="your mail address or URL, for the wiki's operators",
    )
    option("--overwrite", action="store_true", help="fetch all texts again")
    option(
        "--missing",
        choices=("stop", "empty"),
        default="stop",
        help="for a class without a page: write no text, so that training refuses to "
        "start, or an empty one, so that it has prompts only (%(default)s)",
    )
    return parser


def _number_of_texts(root: str | Path, names: Sequence[str]) -> int:
    return sum(text_path(root, label).is_file() for label in range(len(names)))


def run() -> None:
    """Runs the command in this process."""
    process.run(main)
