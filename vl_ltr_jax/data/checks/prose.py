"""Texts of classes: whether they are there, can be read, and are prose.

A text that was fetched by a script is not seen by anyone before training. What such
scripts leave instead of an article is looked for here: nothing, a page of markup, an
error message, a list of what a word may refer to, or letters that were decoded wrongly.
"""

import collections
import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path

from vl_ltr_jax.data.checks.findings import Classes, Finding, Kind, Offender, gather
from vl_ltr_jax.data.root import FileError, read_file
from vl_ltr_jax.data.text import files as text_files
from vl_ltr_jax.data.text.corpus import drop_sections, parse_sections, split_sentences
from vl_ltr_jax.storage import strict_json

FEWEST_WORDS = 20
_TAG = re.compile(r"<[/!?]?[A-Za-z][^<>]{0,2000}>")
_OPEN_HEADING = re.compile(r"^[ \t]*==.*(?<![=\s])[ \t]*$", re.MULTILINE)
_WIKI_MARKUP = re.compile(r"\{\{|\[\[|<ref\b|^\{\||'''", re.MULTILINE)
_FEW_MARKS = 3  # that a text about programs, say, may have
# UTF-8 read as Latin-1 or cp1252; as GBK, where dashes, quotation marks and the stops
# of Chinese become characters that are hardly ever written.
_MOJIBAKE = re.compile(
    "\ufffd|[\u00c2\u00c3][\u0080-\u00bf\u0152-\u0192\u201a-\u2122]|\u00e2\u20ac"
    "|[\u9225\u9286\u951b]"
)
_DISAMBIGUATION = re.compile(
    r"\brefers?\s+to\s*:"
    r"|\b(?:may|might|can|could)\s+(?:either\s+)?(?:refer\s+to|stand\s+for)\b",
    re.IGNORECASE,
)
_OPENING = 200  # characters in which a page says that it only points elsewhere


@dataclasses.dataclass(frozen=True)
class ClassText:
    """The text of a class as it was found.

    Attributes:
      where: its file.
      text: None if it is missing or cannot be decoded.
      encoding: of the file, as it was decoded.
      fault: why there is no text.
      missing: whether that is because there is no file.
    """

    where: str
    text: str | None
    encoding: str = ""
    fault: str = ""
    missing: bool = False


def read(
    root: Path, num_classes: int, encoding: str = "auto"
) -> tuple[list[ClassText], list[Finding]]:
    """Reads each class's text; one that is not there does not keep others from it.

    Args:
      root: directory that holds `wiki/`.
      num_classes: C.
      encoding: see `files.decode`.

    Returns:
      C texts in label order; or none without a directory `wiki`, and the finding that
      says so.
    """
    if not (root / "wiki").is_dir():
        try:
            text_files.check_texts(root, num_classes)
        except text_files.TextError as error:
            kind = Kind("texts-unreadable", "error", "no texts", "")
            return [], gather(kind, [str(error)], Offender)
    texts = []
    for label in range(num_classes):
        path = text_files.text_path(root, label)
        try:
            texts.append(_decoded(str(path), read_file(path), encoding))
        except FileError as error:
            missing = not os.path.lexists(path)
            texts.append(ClassText(str(path), None, "", str(error), missing))
    return texts, []


def _decoded(where: str, data: bytes, encoding: str) -> ClassText:
    try:
        return ClassText(where, *text_files.decode(data, where, encoding))
    except ValueError as error:
        return ClassText(where, None, fault=str(error))


def left_over(root: Path, num_classes: int) -> list[Finding]:
    """Texts of no class, as in a directory that was numbered from 1.

    Args:
      root: directory that holds `wiki/`.
      num_classes: C; 0 where the classes are not known, and nothing is found.
    """
    paths = (root / "wiki").iterdir() if (root / "wiki").is_dir() else ()
    matches = [re.fullmatch(r"desc_(\d{1,9})\.txt", path.name) for path in paths]
    labels = sorted(int(match[1]) for match in matches if match)
    return gather(
        Kind(
            "text-left-over",
            "warning",
            f"texts of no class, as there are {num_classes} classes",
            "count labels from 0; remove what belongs to no class",
        ),
        [label for label in labels if label >= num_classes > 0],
        lambda label: Offender(str(text_files.text_path(root, label))),
    )


def num_sentences(text: str) -> int:
    """Sentences of a text by the rules of the corpus, without prompts."""
    bodies = (body for _, body in drop_sections(parse_sections(text)))
    return sum(len(split_sentences(body)) for body in bodies)


def findings(
    texts: Sequence[ClassText], classes: Classes, *, with_prompts: bool = True
) -> list[Finding]:
    """What is wrong with each text by itself, and texts that several classes have.

    Args:
      texts: C texts in label order.
      classes: names for the report.
      with_prompts: whether a class without a text still has sentences.
    """
    found: dict[str, list[tuple[int, str]]] = collections.defaultdict(list)
    encodings = collections.Counter(text.encoding for text in texts)
    usual = encodings.most_common(1)[0][0] if texts else ""
    of_content: dict[str, list[int]] = collections.defaultdict(list)
    for label, given in enumerate(texts):
        if given.text is None:
            code = "text-missing" if given.missing else "text-unreadable"
            found[code].append((label, "" if given.missing else given.fault))
            continue
        if given.encoding == "gbk" and usual.startswith("utf-8"):
            note = "not UTF-8, and read as GBK; most other texts are UTF-8"
            found["text-encoding"].append((label, note))
        elif given.encoding == "gbk" and _hardly_chinese(given.text):
            note = "not UTF-8, and read as GBK, but hardly Chinese: cp1252?"
            found["text-encoding"].append((label, note))
        of_content[" ".join(given.text.split())].append(label)
        if fault := _fault(given.text):
            found[fault[0]].append((label, fault[1]))
    if [label for label, _ in found["text-missing"]] == [0]:
        found["text-missing"] = [(0, "are the texts numbered from 1?")]
    for content, labels in of_content.items():
        if content and len(labels) > 1:
            found["text-shared"].append((labels[0], f"also of {_listed(labels[1:])}"))

    def offender(row: tuple[int, str]) -> Offender:
        label, note = row
        return classes.offender(texts[label].where, label, note)

    return [
        finding
        for kind in _kinds(with_prompts)
        for finding in gather(kind, found[kind.code], offender)
    ]


def _listed(labels: Sequence[int]) -> str:
    """Classes by number, the first of many."""
    shown = ", ".join(map(str, labels[:5]))
    return f"{'class' if len(labels) == 1 else 'classes'} {shown}" + (
        f" and {len(labels) - 5} more" if len(labels) > 5 else ""
    )


def _hardly_chinese(text: str) -> bool:
    """Whether most letters are Latin, as where GBK mistook a few accents."""
    letters = [letter for letter in text if letter.isalpha()]
    return sum(letter.isascii() for letter in letters) > len(letters) / 2


def _fault(text: str) -> tuple[str, str] | None:
    """Kind and note of the gravest fault of a text."""
    words = text.split()
    if not words:
        return "text-empty", ""
    if reason := _not_prose(text):
        return "text-not-prose", reason
    if not num_sentences(text):
        return "text-no-sentence", ""
    marks = _MOJIBAKE.findall(text)
    if len(marks) > 1 or "\ufffd" in marks:
        shown = " ".join(dict.fromkeys(marks[:5]))
        return "text-mojibake", f"{len(marks)} places, such as {shown!r}"
    if match := _DISAMBIGUATION.search(text[:_OPENING]):
        return "text-disambiguation", f"{_around(text, match)!r}"
    marks = _WIKI_MARKUP.findall(text)
    if len(marks) > _FEW_MARKS:
        return "text-markup", f"{len(marks)} places, such as {marks[0]!r}"
    if open_heading := _OPEN_HEADING.search(text):
        return "text-open-heading", f"{open_heading[0].strip()[:60]!r}"
    # Scripts without blanks between words have longer ones.
    if len(words) < FEWEST_WORDS and len(text.encode()) < 8 * FEWEST_WORDS:
        return "text-short", f"{len(words)} words"
    return None


def _around(text: str, match: re.Match[str]) -> str:
    return " ".join(text[max(match.start() - 40, 0) : match.end() + 20].split())


def _not_prose(text: str) -> str:
    """What a text is instead of prose, if it is."""
    start = text.lstrip("\ufeff \t\r\n")[:2000].lower()
    if start.startswith(("<!doctype", "<html", "<?xml", "<head", "<body")):
        return "a page of HTML or XML"
    tags = _TAG.findall(text)
    if len(tags) > _FEW_MARKS and 10 * sum(map(len, tags)) > len(text):
        return f"{len(tags)} tags such as {tags[0][:40]!r}"
    if start.startswith(("{", "[")):
        try:
            strict_json.parse(text.lstrip("\ufeff"))
            return "JSON"
        except ValueError:
            pass
    return ""


def _kinds(with_prompts: bool) -> tuple[Kind, ...]:
    return (
        Kind(
            "text-missing",
            "error",
            "classes without a text",
            "write one (empty, if prompts are all that the class shall have), or set "
            "data.texts='none'; labels of texts count from 0",
        ),
        Kind(
            "text-unreadable",
            "error",
            "texts that cannot be decoded",
            "save them as UTF-8, or set data.text_encoding",
        ),
        Kind(
            "text-not-prose",
            "error",
            "texts that are a page of markup or data instead of prose",
            "fetch the plain text of the article",
        ),
        Kind(
            "text-empty",
            "warning" if with_prompts else "error",
            "empty texts",
            "write what the class looks like: prompts are all that it has",
        ),
        Kind(
            "text-no-sentence",
            "warning" if with_prompts else "error",
            "texts without a sentence",
            "sentences end in '.' or '?', and sections such as References are left out",
        ),
        Kind(
            "text-mojibake",
            "warning",
            "texts that look decoded wrongly",
            "save them as UTF-8, or set data.text_encoding",
        ),
        Kind(
            "text-encoding",
            "warning",
            "texts in another encoding than it seems",
            "look at them, and save them as UTF-8 or set data.text_encoding",
        ),
        Kind(
            "text-disambiguation",
            "warning",
            "texts that list what a name may refer to",
            "take the article of the thing that the class is",
        ),
        Kind(
            "text-markup",
            "warning",
            "texts with the markup of a wiki",
            "fetch the plain text of the article",
        ),
        Kind(
            "text-open-heading",
            "warning",
            "texts with a line that starts with '==' and does not end so",
            "the whole line is a heading and makes no sentence; put prose on a line "
            "of its own",
        ),
        Kind(
            "text-short",
            "warning",
            f"texts of fewer than {FEWEST_WORDS} words",
            "write more of what the class looks like",
        ),
        Kind(
            "text-shared",
            "warning",
            "texts that several classes have",
            "write texts that tell the classes apart",
        ),
    )
