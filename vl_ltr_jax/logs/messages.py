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
_MAX_SUGGESTION_CANDIDATES = 20_000  # more would take minutes


def nfc(name: str) -> str:
    """Returns a name in Unicode's composed form: a Mac writes the decomposed one."""
    return unicodedata.normalize("NFC", name)


def any_case(name: str) -> str:
    """Returns a form that is equal for names of other case or Unicode form."""
    return nfc(nfc(name).casefold())


def without_passwords(text: str) -> str:
    """Returns the text with `//***@host` for `//user:password@host`."""
    return _USER.sub("//***@", text)


def printable(text: str, keep: str = "") -> str:
    """Returns the text with escapes for invisible characters, except those to keep."""
    return "".join(
        char
        if char.isprintable() or char in keep
        else char.encode("unicode_escape").decode()
        for char in text
    )


class _Short(reprlib.Repr):
    """Python's form of a value, cut in the middle if it is long."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 200

    def repr_int(self, x: int, level: int) -> str:
        """Returns a number; Python refuses to write more than 4300 digits."""
        bits = x.bit_length()
        return (
            super().repr_int(x, level) if bits < 9999 else f"<a number of {bits} bits>"
        )


shortened = _Short().repr


def format_duration(seconds: float) -> str:
    """Returns a duration in its two largest units: `2d 03h`, `1h 06m`, `12s`."""
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
    """Returns a number of things: `1 picture`, `2,048 pictures`, `60 classes`.

    Args:
      number: how many.
      unit: singular.
      units: plural, if it is not the singular with an s.
    """
    return f"{number:,} {unit if number == 1 else units or unit + 's'}"


def format_rate(rate: float) -> str:
    """Returns a number for `.../s`: `2,048`, `31.4`, `0.0123`."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


class UnknownNameError(UserError):
    """A name that is not allowed."""


def unknown_name(kind: str, name: str, allowed: Iterable[str]) -> UnknownNameError:
    """Returns the error for a name that is not allowed, with the nearest name."""
    names = list(allowed)
    return UnknownNameError(
        f"{kind} is {shortened(name)}; allowed: {', '.join(names)}"
        + near_name(name, names)
    )


def near_name(name: str, allowed: Collection[str]) -> str:
    """Returns the part of a message that suggests the nearest name, if any is near.

    A name of other case or Unicode form goes first.
    """
    for other in allowed:
        if any_case(other) == any_case(name):
            return f"; did you mean {other!r}?"
    if len(name) > _MAX_SUGGESTION_CHARS or len(allowed) > _MAX_SUGGESTION_CANDIDATES:
        return ""
    near = difflib.get_close_matches(name, list(allowed), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def nearest(name: object, allowed: Iterable[Any]) -> str:
    """Returns the end of a message: the nearest allowed name, or all of them."""
    names = [str(other) for other in allowed]
    near = near_name(name, names) if isinstance(name, str) else ""
    return near or f"; allowed: {sorted(names)}"
