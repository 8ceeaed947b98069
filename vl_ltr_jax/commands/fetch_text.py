"""Fetches the text of every class from Wikipedia, or from any other MediaWiki.

    python -m vl_ltr_jax.data.fetch_text --root=ROOT --contact=name@example.org

The texts and the file that says where each came from are those of
:mod:`vl_ltr_jax.data.wiki.fetch`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vl_ltr_jax.commands import exits
from vl_ltr_jax.data.text.class_names import LAYOUTS
from vl_ltr_jax.data.text.files import text_path
from vl_ltr_jax.data.wiki.class_pages import read_titles, searchable_names
from vl_ltr_jax.data.wiki.fetch import fetch_texts, summary
from vl_ltr_jax.data.wiki.mediawiki import WIKIPEDIA, MediaWiki, WikiError
from vl_ltr_jax.logs import console, messages
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

vl_ltr_jax/data/wiki/README.md says more."""


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
    print(messages.printable(summary(outcome, names), "\n\t"))
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


def run() -> None:
    """Runs the command in this process."""
    main(sys.argv[1:])
