"""Which page of a wiki tells of a class."""

import re
import unicodedata
from pathlib import Path

import regex

from vl_ltr_jax.data.text.class_names import read_class_names
from vl_ltr_jax.data.text.files import read_text_file
from vl_ltr_jax.data.wiki.mediawiki import LONGEST_TITLE, NOT_IN_TITLES, MediaWiki, Page
from vl_ltr_jax.runtime.errors import UserError

# Scripts that write words without blanks between them.
_UNSPACED = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
)


class TitleError(UserError):
    """A file of page titles that is missing or malformed."""


def searchable_names(root: str | Path, layout: str = "plain") -> tuple[str, ...]:
    """The class names to look for, in label order.

    Names of `places_lt` come without the letter in front, which their prompts have.

    Raises:
        ValueError: as `read_class_names` does.
    """
    names = read_class_names(root, layout)
    if layout == "places_lt":
        names = tuple(re.sub(r"^ \w ", "", name) for name in names)
    return tuple(" ".join(name.split()) for name in names)


def read_titles(path: str | Path, num_classes: int) -> dict[int, str]:
    """Reads the page titles that a user chose: rows `label<TAB>title`.

    Args:
        path: the file.
        num_classes: C; labels are 0 .. C-1.

    Returns:
        label -> title, with blanks for underscores.

    Raises:
        ValueError: a missing file, a malformed row, a label out of range or given
            twice, or a title that no page can have; names the file and the line.
    """
    path = Path(path)
    if not path.is_file():
        raise TitleError(
            f"the file of titles {path} does not exist; it has rows `label<TAB>title`"
        )
    titles: dict[int, str] = {}
    for number, line in enumerate(read_text_file(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        label, *rest = (field.strip() for field in line.split("\t"))
        if len(rest) != 1 or not rest[0] or not label.isdecimal() or len(label) > 9:
            raise TitleError(
                f"{where}: {line!r} is not a row `label<TAB>title`, such as "
                "'134\\tCrane (bird)'"
            )
        if int(label) >= num_classes:
            raise TitleError(
                f"{where}: the label {label} of {rest[0]!r} lies outside 0 .. "
                f"{num_classes - 1}, the labels of {num_classes} classes"
            )
        if int(label) in titles:
            raise TitleError(
                f"{where}: the label {label} has the title {titles[int(label)]!r} "
                "already; each class has one row"
            )
        if found := sorted(NOT_IN_TITLES & set(rest[0])):
            raise TitleError(
                f"{where}: no page has a title with {' '.join(found)} as {rest[0]!r}; "
                "write the page's title, not its address"
            )
        if len(rest[0].encode()) > LONGEST_TITLE:
            raise TitleError(
                f"{where}: a title has at most {LONGEST_TITLE} bytes of UTF-8, but "
                f"{rest[0][:40]!r}... has {len(rest[0].encode())}"
            )
        titles[int(label)] = rest[0].replace("_", " ")
    return titles


def find_page(
    wiki: MediaWiki, name: str, *, title: str | None = None, hint: str = ""
) -> tuple[Page | None, str, str]:
    """Finds the page of a class.

    Args:
        wiki: where to look.
        name: the name of the class.
        title: the title that the user chose; then no other page is looked for.
        hint: words that a search gets besides the name, such as `species`.

    Returns:
        The page, how it was found (`title`, `exact`, `search`), and what was asked for;
        or None, `missing`, and the reason.

    Raises:
        WikiError: the wiki is out of reach or refuses.
    """
    if title is not None:
        page = wiki.page(title)
        if page is None:
            fault = "is not there"
        elif page.is_disambiguation:
            fault = "only lists meanings"
        elif not page.text:
            fault = "has no text"
        else:
            return page, "title", title
        return None, "missing", f"the page {title!r} of --titles {fault}"
    page = wiki.page(name)
    if page is not None and _is_usable(page):
        return page, "exact", name
    words = f"{name} {hint}".strip()
    for find in wiki.search(words):
        page = wiki.page(find)
        if page is not None and _is_usable(page) and mentions(page, name):
            return page, "search", words
    return None, "missing", f"no article of that name, nor by a search for {words!r}"


def mentions(page: Page, name: str) -> bool:
    """Whether every word of the name is in the page's title or text, in any case."""
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
