"""The page of a wiki that describes a class."""

import re
import unicodedata
from pathlib import Path

import regex

from vl_ltr_jax.data.text.class_names import read_class_names
from vl_ltr_jax.data.text.files import read_text_file
from vl_ltr_jax.data.wiki.mediawiki import MediaWiki, Page
from vl_ltr_jax.logs.messages import shortened
from vl_ltr_jax.runtime.errors import UserError

# Scripts that write words without blanks between them.
_UNSPACED = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
)


class TitleError(UserError):
    """A file of page titles that is missing or malformed."""


def searchable_names(root: str | Path, layout: str = "plain") -> tuple[str, ...]:
    """Returns the class names to look for, in label order.

    Names of `places_lt` lose the letter that their prompts begin with.

    Raises:
      UserError: `read_class_names` fails.
    """
    names = read_class_names(root, layout)
    if layout == "places_lt":
        names = tuple(re.sub(r"^ \w ", "", name) for name in names)
    return tuple(" ".join(name.split()) for name in names)


def read_titles(path: str | Path, num_classes: int) -> dict[int, str]:
    """Reads page titles from rows `label<TAB>title`.

    Returns:
      label -> title, with blanks for underscores.

    Raises:
      FileError: the file cannot be read.
      TitleError: a row is malformed, or its label is out of range or repeated.
    """
    titles: dict[int, str] = {}
    for number, line in enumerate(read_text_file(Path(path)).split("\n"), 1):
        if not line.strip():
            continue
        label, _, title = map(str.strip, line.partition("\t"))
        fault = ""
        if not title or "\t" in title or not re.fullmatch("[0-9]{1,9}", label):
            fault = "no row `label<TAB>title`, such as '134\\tCrane (bird)'"
        elif int(label) >= num_classes:
            fault = f"labels are 0 to {num_classes - 1}"
        elif int(label) in titles:
            fault = f"the label {label} has the title {titles[int(label)]!r} already"
        if fault:
            raise TitleError(f"{path}:{number}: {shortened(line)}: {fault}.")
        titles[int(label)] = title.replace("_", " ")
    return titles


def find_page(
    wiki: MediaWiki, name: str, *, title: str | None = None, hint: str = ""
) -> tuple[Page | None, str, str]:
    """Finds the page of a class.

    Args:
      wiki: client.
      name: class name.
      title: title from the user; no other page is tried then.
      hint: additional words for the search, such as `species`.

    Returns:
      The page, `title`, `exact` or `search`, and the query; or None, `missing` and the
      reason.

    Raises:
      WikiError: the wiki is out of reach or refuses.
    """
    if title is not None:
        page = wiki.page(title)
        if page is not None and page.text and not page.is_disambiguation:
            return page, "title", title
        fault = "absent, empty, or a list of meanings"
        return None, "missing", f"the page {title!r} of --titles is {fault}"
    page = wiki.page(name)
    if page is not None and _is_usable(page):
        return page, "exact", name
    words = f"{name} {hint}".strip()
    for hit in wiki.search(words):
        page = wiki.page(hit)
        if page is not None and _is_usable(page) and mentions(page, name):
            return page, "search", words
    return None, "missing", f"no article of that name, nor by a search for {words!r}"


def mentions(page: Page, name: str) -> bool:
    """Returns True if the title or text of a page has every word of a name."""
    text = _plain(f"{page.title}\n{page.text}")
    words = regex.findall(r"\w+", _plain(name))
    return bool(words) and all(
        word in text
        if _UNSPACED.search(word)
        else regex.search(rf"(?<!\w){regex.escape(word)}(?!\w)", text)
        for word in words
    )


def _is_usable(page: Page) -> bool:
    return page.is_article and not page.is_disambiguation and bool(page.text)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()
