"""Texts of classes that are missing, unreadable or no prose.

Nobody looks at a fetched text before training. Scripts may leave an empty file, a page
of markup, an error message, a list of meanings, or wrongly decoded letters.
"""

import collections
import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from vl_ltr_jax.data.root import read_file
from vl_ltr_jax.data.sources.faults import Classes, Finding, Kind, Offender, gather
from vl_ltr_jax.data.text import files as text_files
from vl_ltr_jax.data.text.corpus import drop_sections, parse_sections, split_sentences
from vl_ltr_jax.storage import strict_json

FEWEST_WORDS = 20
_TAG = re.compile(r"<[/!?]?[A-Za-z][^<>]{0,2000}>")
_OPEN_HEADING = re.compile(r"^[ \t]*==.*(?<![=\s])[ \t]*$", re.MULTILINE)
_WIKI_MARKUP = re.compile(r"\{\{|\[\[|<ref\b|^\{\||'''", re.MULTILINE)
_FEW_MARKS = 3  # a text about programs may have some
# UTF-8 read as Latin-1 or cp1252; as GBK, where dashes, quotation marks and the stops
# of Chinese become rare characters.
_MOJIBAKE = re.compile(
    "\ufffd|[\u00c2\u00c3][\u0080-\u00bf\u0152-\u0192\u201a-\u2122]|\u00e2\u20ac"
    "|[\u9225\u9286\u951b]"
)
_DISAMBIGUATION = re.compile(
    r"\brefers?\s+to\s*:"
    r"|\b(?:may|might|can|could)\s+(?:either\s+)?(?:refer\s+to|stand\s+for)\b",
    re.IGNORECASE,
)
_OPENING = 200  # characters that introduce a page of meanings


@dataclasses.dataclass(frozen=True)
class ClassText:
    """The text of a class.

    Attributes:
      where: its file.
      text: None if it is missing or cannot be decoded.
      encoding: of the file.
      fault: reason that it cannot be read; empty for a missing file.
    """

    where: str
    text: str | None
    encoding: str = ""
    fault: str = ""


def read(root: Path, num_classes: int, encoding: str = "auto") -> list[ClassText]:
    """Returns C texts in label order.

    Args:
      root: directory that holds `wiki/`.
      num_classes: C.
      encoding: see `files.decode`.
    """
    texts = []
    for label in range(num_classes):
        path = text_files.text_path(root, label)
        try:
            decoded = text_files.decode(read_file(path), str(path), encoding)
            texts.append(ClassText(str(path), *decoded))
        except ValueError as error:
            fault = str(error) if path.exists() else ""
            texts.append(ClassText(str(path), None, fault=fault))
    return texts


def left_over(root: Path, num_classes: int) -> list[Finding]:
    """Returns texts of no class, as in a directory that was numbered from 1.

    Args:
      root: directory that holds `wiki/`.
      num_classes: C; with 0 the result is empty.
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
    """Returns the number of sentences by the rules of the corpus, without prompts."""
    bodies = (body for _, body in drop_sections(parse_sections(text)))
    return sum(len(split_sentences(body)) for body in bodies)


def findings(
    texts: Sequence[ClassText], classes: Classes, *, with_prompts: bool = True
) -> list[Finding]:
    """Returns the faults of each text, and texts that several classes have.

    Args:
      texts: C texts in label order.
      classes: names for the report.
      with_prompts: True if a class without a text has sentences from prompts.
    """
    rows: dict[str, list[tuple[int, str]]] = collections.defaultdict(list)
    encodings = collections.Counter(text.encoding for text in texts)
    usual = encodings.most_common(1)[0][0] if texts else ""
    by_content: dict[str, list[int]] = collections.defaultdict(list)
    for label, (text, encoding) in enumerate((t.text, t.encoding) for t in texts):
        if text is None:
            fault = texts[label].fault
            rows["text-unreadable" if fault else "text-missing"].append((label, fault))
            continue
        if encoding == "gbk" and usual.startswith("utf-8"):
            note = "not UTF-8, and read as GBK; most other texts are UTF-8"
            rows["text-encoding"].append((label, note))
        elif encoding == "gbk" and _is_mostly_latin(text):
            note = "not UTF-8, and read as GBK, but hardly Chinese: cp1252?"
            rows["text-encoding"].append((label, note))
        by_content[" ".join(text.split())].append(label)
        if code_and_note := _fault(text):
            rows[code_and_note[0]].append((label, code_and_note[1]))
    if rows["text-missing"] == [(0, "")]:
        rows["text-missing"] = [(0, "are the texts numbered from 1?")]
    for content, labels in by_content.items():
        if content and len(labels) > 1:
            rows["text-shared"].append((labels[0], f"also of {_listed(labels[1:])}"))

    def offender(row: tuple[int, str]) -> Offender:
        label, note = row
        return classes.offender(texts[label].where, label, note)

    return [
        finding
        for kind in _kinds(with_prompts)
        for finding in gather(kind, rows[kind.code], offender)
    ]


def _listed(labels: Sequence[int]) -> str:
    """Returns the first labels in words."""
    first = ", ".join(map(str, labels[:5]))
    more = f" and {len(labels) - 5} more" if len(labels) > 5 else ""
    return f"{'class' if len(labels) == 1 else 'classes'} {first}{more}"


def _is_mostly_latin(text: str) -> bool:
    """Returns True if GBK may have mistaken a few accents."""
    letters = [letter for letter in text if letter.isalpha()]
    return sum(letter.isascii() for letter in letters) > len(letters) / 2


def _fault(text: str) -> tuple[str, str] | None:
    """Returns code and note of the gravest fault of a text."""
    words = text.split()
    if not words:
        return "text-empty", ""
    if reason := _not_prose(text):
        return "text-not-prose", reason
    if not num_sentences(text):
        return "text-no-sentence", ""
    marks = _MOJIBAKE.findall(text)
    if len(marks) > 1 or "\ufffd" in marks:
        examples = " ".join(dict.fromkeys(marks[:5]))
        return "text-mojibake", f"{len(marks)} places, such as {examples!r}"
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
    """Returns the kind of a text that is no prose, or ''."""
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
            "write one (empty, for prompts alone), or set data.texts='none'; labels of "
            "texts count from 0",
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
            "texts that are a page of markup or data",
            "fetch the plain text of the article",
        ),
        Kind(
            "text-empty",
            "warning" if with_prompts else "error",
            "empty texts",
            "describe the looks of the class: it has prompts alone",
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
            "texts that list meanings of a name",
            "fetch the article of the class itself",
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
            "such a line is a heading and makes no sentence; put prose on its own line",
        ),
        Kind(
            "text-short",
            "warning",
            f"texts of fewer than {FEWEST_WORDS} words",
            "write more about the looks of the class",
        ),
        Kind(
            "text-shared",
            "warning",
            "texts that several classes have",
            "write texts that distinguish the classes",
        ),
    )
