"""Texts that speak of other classes than their own.

Directories of iNaturalist are numbers. Sorted as strings they run 0, 1, 10, 100, ...
A script that numbers its texts by that order gives nearly every class the text of
another. Training does not fail then; it gets worse. The class names in a text tell its
class.
"""

import collections
import dataclasses
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int

from vl_ltr_jax.data.sources.faults import Classes, Finding, Kind, Offender, gather

MAX_NAME_WORDS = 5  # the rest of a name is ignored
TEXT_WORDS = 400  # the rest of a text is ignored
_TEXT_LETTERS = 12 * TEXT_WORDS
_EARLY = 40  # words that introduce the subject of a text
_OFTEN = 3  # mentions that make another class prominent
# Another order explains texts if half of those that mention a class mention theirs, and
# clearly more than in the present order.
_LEAST_SHARE, _LEAST_GAIN, _LEAST_CLASSES = 0.5, 0.25, 4
# Chinese, Japanese and Korean characters are words of their own.
_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD = re.compile(rf"[{_IDEOGRAPHS}]|[^\W_{_IDEOGRAPHS}]+")
_ACCENT = re.compile("[\u0300-\u036f]")
# Names of Places have a letter in front, ` a airfield` or `/a/airfield`.
_PLACES_LETTER = re.compile(r"^(?: \w |/\w/)")


@dataclasses.dataclass(frozen=True)
class Mentions:
    """The classes that a text mentions.

    Attributes:
      names: from a label to the number of times that its full name occurs.
      early: labels whose full name occurs among the first words.
      parts: labels with a word in the text that is in no other name.
      words: all words of the text that are in any name.
    """

    names: Mapping[int, int]
    early: frozenset[int]
    parts: frozenset[int]
    words: frozenset[str]

    @property
    def speaks(self) -> bool:
        """True if any class is mentioned."""
        return bool(self.names or self.parts)

    def speaks_of(self, label: int) -> bool:
        """Returns True if a class is mentioned, by its name or a word of its own."""
        return label in self.names or label in self.parts


class NameIndex:
    """An index that finds the names of classes in texts."""

    def __init__(self, class_names: Sequence[str]) -> None:
        """Indexes C names; several classes may have the same."""
        self.names = [words(_PLACES_LETTER.sub("", name)) for name in class_names]
        by_name: dict[tuple[str, ...], list[int]] = collections.defaultdict(list)
        by_word: dict[str, list[int]] = collections.defaultdict(list)
        for label, name in enumerate(self.names):
            if name:
                by_name[name[:MAX_NAME_WORDS]].append(label)
            for word in set(name):
                by_word[word].append(label)
        self._by_name = dict(by_name)
        self._lengths: dict[str, list[int]] = collections.defaultdict(list)
        for start, length in sorted({(name[0], len(name)) for name in by_name}):
            self._lengths[start].append(length)
        self._all_words = frozenset(by_word)
        # Short words, as of a binomial's abbreviation, are ambiguous.
        self._own_words = {
            word: labels[0]
            for word, labels in by_word.items()
            if len(labels) == 1 and (len(word) > 3 or not word.isascii())
        }

    def mentions(self, text: str) -> Mentions:
        """Returns the classes that the first words of a text mention."""
        first = words(text[:_TEXT_LETTERS])[:TEXT_WORDS]
        names: collections.Counter[int] = collections.Counter()
        early: set[int] = set()
        for place, word in enumerate(first):
            for length in self._lengths.get(word, ()):
                for label in self._by_name.get(first[place : place + length], ()):
                    names[label] += 1
                    if place < _EARLY:
                        early.add(label)
        known = self._all_words.intersection(first)
        parts = frozenset(
            self._own_words[word] for word in known if word in self._own_words
        )
        return Mentions(names, frozenset(early), parts, known)


def words(text: str) -> tuple[str, ...]:
    """Returns words in small letters, without accents, plurals as singulars."""
    decomposed = unicodedata.normalize("NFKD", text.replace("_", " ")).lower()
    # NFC composes Hangul and voiced kana again.
    plain = unicodedata.normalize("NFC", _ACCENT.sub("", decomposed))
    return tuple(map(_singular, _WORD.findall(plain)))


def _singular(word: str) -> str:
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "xes", "sses")):
        return word[:-2]
    return word[:-1]


def orders(
    class_names: Sequence[str], extra: Mapping[str, Sequence[int]] | None = None
) -> dict[str, Int[np.ndarray, "C"]]:
    """Returns orders that texts may have by mistake.

    Args:
      class_names: C names.
      extra: further orders, as labels of text 0, 1, ...

    Returns:
      For each order the class of text 0, 1, ...; -1 is no class.
    """
    count = len(class_names)
    as_strings = np.array(sorted(range(count), key=str), np.int64)
    from_one = np.array(sorted(range(1, count + 1), key=str), np.int64) - 1
    by_name = np.array(sorted(range(count), key=lambda i: class_names[i]), np.int64)
    identity = np.arange(count)
    candidates = {
        "labels sorted as strings (0, 1, 10, 100, ..., 2, 20, ...)": as_strings,
        "labels sorted as strings, taken backwards": np.argsort(as_strings),
        "labels from 1 sorted as strings (1, 10, 100, ..., 2, 20, ...)": from_one,
        "numbers from 1, as text N speaks of class N - 1": identity - 1,
        "numbers one too small, as text N speaks of class N + 1": np.append(
            identity[1:], -1
        ),
        "the reverse": identity[::-1],
        "names sorted alphabetically": by_name,
        "names sorted alphabetically, taken backwards": np.argsort(by_name),
        **{name: np.array(order, np.int64) for name, order in (extra or {}).items()},
    }
    return {
        name: order
        for name, order in candidates.items()
        if not np.array_equal(order, identity)
    }


def findings(
    class_names: Sequence[str],
    texts: Sequence[str | None],
    where: Sequence[str],
    extra_orders: Mapping[str, Sequence[int]] | None = None,
) -> list[Finding]:
    """Returns texts that speak of other classes: all, by a wrong order, or single ones.

    Args:
      class_names: C names.
      texts: C texts; None if one is missing.
      where: file of each text.
      extra_orders: see :func:`orders`.

    Returns:
      One error if another order explains the texts clearly better. Otherwise the texts
      that mention another class only; many of them are an error.
    """
    index = NameIndex(class_names)
    mentioned = [None if text is None else index.mentions(text) for text in texts]
    classes = Classes(class_names)
    telling = sum(m is not None and m.speaks for m in mentioned)
    present = _agreement(mentioned, np.arange(len(class_names)))
    best_name, best, agreed = "", np.arange(len(class_names)), present
    for name, order in orders(class_names, extra_orders).items():
        agreement = _agreement(mentioned, order)
        if agreement.sum() > agreed.sum():
            best_name, best, agreed = name, order, agreement
    gain = int(agreed.sum()) - int(present.sum())
    if gain >= max(_LEAST_CLASSES, _LEAST_GAIN * telling) and (
        agreed.sum() >= _LEAST_SHARE * telling
    ):
        wrong = np.flatnonzero(agreed & ~present).tolist()
        then = f"{agreed.sum() / telling:.0%} of texts mention their class then"
        now = f"{present.sum() / telling:.0%} as they are numbered"
        return gather(
            Kind(
                "text-order",
                "error",
                f"texts in another order than the classes: {best_name}; {then}, {now}",
                "number the texts by label: desc_N.txt is the text of class N, and "
                "labels count from 0",
            ),
            wrong,
            lambda label: _speaks_of(classes, where, label, int(best[label])),
        )
    return _strangers(classes, index, mentioned, where)


def _agreement(
    mentioned: Sequence[Mentions | None], order: Int[np.ndarray, "C"]
) -> Bool[np.ndarray, "C"]:
    """Returns True for texts that mention their class in an order."""
    pairs = zip(mentioned, order.tolist(), strict=True)
    return np.array([m is not None and m.speaks_of(label) for m, label in pairs])


def _speaks_of(
    classes: Classes, where: Sequence[str], label: int, other: int
) -> Offender:
    name = classes.names[other]
    note = f"speaks of class {other} {name!r}"
    return classes.offender(where[label], label, note)


def _strangers(
    classes: Classes,
    index: NameIndex,
    mentioned: Sequence[Mentions | None],
    where: Sequence[str],
) -> list[Finding]:
    """Returns texts without their class's name, and with the full name of another.

    Words that two names share, such as a genus, count for neither.
    """
    strangers: list[tuple[int, int, int]] = []
    for label, mentions in enumerate(mentioned):
        if mentions is None or mentions.speaks_of(label):
            continue
        for other, count in _prominent(mentions):
            own = set(index.names[label]).difference(index.names[other])
            if own and not own & mentions.words:
                strangers.append((count, label, other))
                break
    strangers.sort(key=lambda row: (-row[0], row[1]))
    telling = sum(mentions is not None and mentions.speaks for mentions in mentioned)
    many = len(strangers) >= max(_LEAST_CLASSES, _LEAST_GAIN * telling)
    return gather(
        Kind(
            "text-of-other-class",
            "error" if many else "warning",
            "texts that mention another class, and never their own",
            "see whether texts were exchanged: desc_N.txt is the text of class N",
        ),
        strangers,
        lambda row: _speaks_of(classes, where, row[1], row[2]),
    )


def _prominent(mentions: Mentions) -> Iterator[tuple[int, int]]:
    """Yields classes that a text mentions early or often, the most frequent first."""
    for label, count in sorted(mentions.names.items(), key=lambda item: -item[1]):
        if label in mentions.early or count >= _OFTEN:
            yield label, count
