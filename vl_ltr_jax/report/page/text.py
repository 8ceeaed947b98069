"""User text for the page: short, one line, without control characters."""

import unicodedata


def name(content: str) -> str:
    """Returns a class name of at most 100 characters, see :func:`line`."""
    return line(content, 100)


def sentence(content: str) -> str:
    """Returns a sentence of at most 320 characters, see :func:`line`."""
    return line(content, 320)


def line(content: str, max_length: int) -> str:
    """Returns a text as one line of bounded length that UTF-8 can encode.

    Control characters and lone surrogates become the replacement character. A shortened
    text ends with an ellipsis.
    """
    words = " ".join(content.split())
    safe = "".join(
        "\ufffd" if unicodedata.category(letter) in ("Cc", "Cs") else letter
        for letter in words[: max_length + 1]
    )
    if len(safe) <= max_length:
        return safe
    return safe[: max_length - 1].rstrip() + "…"


def of_classes(number: int) -> str:
    """Returns `1 class`, `1,203 classes`."""
    return f"{number:,} class{'' if number == 1 else 'es'}"
