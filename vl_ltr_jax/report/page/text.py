"""Texts of others as a page shows them: short, one line, without control characters."""

import unicodedata

MAX_NAME = 100  # characters of a class name
MAX_SENTENCE = 320


def name(given: str) -> str:
    """A class name, see :func:`line`."""
    return line(given, MAX_NAME)


def sentence(given: str) -> str:
    """A sentence, see :func:`line`."""
    return line(given, MAX_SENTENCE)


def line(given: str, max_length: int) -> str:
    """A text as one line of bounded length that can be written as UTF-8.

    Control characters and lone surrogates become the replacement character; marks of
    direction stay: where the text is shown they act on it alone.

    Args:
      given: any text.
      max_length: in characters; a longer one ends with an ellipsis.
    """
    # Four times as many: blank space shrinks, but nobody waits for a megabyte.
    words = " ".join(given[: 4 * max_length].split())
    safe = "".join(
        "\ufffd" if unicodedata.category(letter) in ("Cc", "Cs") else letter
        for letter in words
    )
    if len(safe) <= max_length and len(given) <= 4 * max_length:
        return safe
    return safe[: max_length - 1].rstrip() + "…"


def of_classes(number: int) -> str:
    """`1 class`, `1,203 classes`."""
    return f"{number:,} class{'' if number == 1 else 'es'}"
