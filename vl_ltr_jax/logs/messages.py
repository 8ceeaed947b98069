"""Wording of messages: shortened values, durations, counts, near names."""

import difflib
import re
import reprlib
import unicodedata
from collections.abc import Collection, Iterable
from typing import Any

from vl_ltr_jax.runtime.errors import UserError

_USER = re.compile(r"//[^\s/@'\"]+@")
_MAX_SUGGESTION_CHARS = 255  # of a name for which near ones are searched
_MAX_SUGGESTION_CANDIDATES = 20_000
_MAX_KEY_CHARS = 100  # of a key for which near ones are searched


def nfc(name: str) -> str:
    """Returns a name in Unicode's composed form: a Mac writes the decomposed one."""
    return unicodedata.normalize("NFC", name)


def any_case(name: str) -> str:
    """Returns what names that differ by case and Unicode's form have in common."""
    return nfc(nfc(name).casefold())


def without_passwords(text: str) -> str:
    """The text, in which `//user:password@host` has become `//***@host`."""
    return _USER.sub("//***@", text)


def printable(text: str, keep: str = "") -> str:
    """The text with what is not seen written as escapes, but for characters to keep."""
    return "".join(
        char
        if char.isprintable() or char in keep
        else char.encode("unicode_escape").decode()
        for char in text
    )


class _Short(reprlib.Repr):
    """Python's way to write a value, cut in the middle where it is long."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 200

    def repr_int(self, x: int, level: int) -> str:
        """A number; Python writes none of more than 4300 digits."""
        bits = x.bit_length()
        return (
            super().repr_int(x, level) if bits < 9999 else f"<a number of {bits} bits>"
        )


def shortened(value: object) -> str:
    """A value as Python writes it, for messages: cut where it is long."""
    return _SHORT.repr(value)


_SHORT = _Short()


def format_duration(seconds: float) -> str:
    """A duration in its two largest units: `2d 03h`, `1h 06m`, `4m 05s`, `12s`."""
    seconds = round(seconds)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours:02}h"
    if hours:
        return f"{hours}h {minutes:02}m"
    return f"{minutes}m {seconds:02}s" if minutes else f"{seconds}s"


def counted(number: int, unit: str, units: str = "") -> str:
    """A number of things: `1 picture`, `2,048 pictures`, `60 classes`.

    Args:
      number: how many.
      unit: one of them.
      units: several, where that is not the same with an s.
    """
    return f"{number:,} {unit if number == 1 else units or unit + 's'}"


def format_rate(rate: float) -> str:
    """A number for `.../s`: `2,048`, `31.4`, `0.0123`."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


class UnknownNameError(UserError):
    """A name that is not one of those allowed."""


def unknown_name(kind: str, given: str, allowed: Iterable[str]) -> UnknownNameError:
    """The error for a name that is not one of those allowed, with the nearest."""
    names = list(allowed)
    near = difflib.get_close_matches(given[:_MAX_SUGGESTION_CHARS], names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    told = f"{kind} is {shortened(given)}; allowed: {', '.join(names)}.{hint}"
    return UnknownNameError(told)


def near_name(given: str, allowed: Collection[str]) -> str:
    """The part of a message that names the nearest of those allowed, if any is near.

    One that differs by case or Unicode's form goes first. Of long names and of very
    many no other is named: the search would take minutes.
    """
    for name in allowed:
        if any_case(name) == any_case(given):
            return f"; did you mean {name!r}?"
    if len(given) > _MAX_SUGGESTION_CHARS or len(allowed) > _MAX_SUGGESTION_CANDIDATES:
        return ""
    near = difflib.get_close_matches(given, list(allowed), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def nearest(given: object, allowed: Any) -> str:
    """The end of a message: the allowed name that is nearest, or all of them."""
    name = str(given)[:_MAX_KEY_CHARS] if isinstance(given, str) else ""
    near = difflib.get_close_matches(name, [str(a) for a in allowed], n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; allowed: {sorted(allowed)}"
