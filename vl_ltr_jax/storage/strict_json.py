"""JSON that others have written, or something has damaged."""

import json
from collections.abc import Mapping
from typing import Any

_DEEPEST = 100  # lists and objects inside each other; files of ours have five


def parse(text: str | bytes) -> Any:
    """Reads JSON; whatever is wrong with it is a `ValueError`.

    Args:
        text: the whole of it; bytes are UTF-8.

    Raises:
        ValueError: no JSON; lists or objects nested beyond any use, which Python would
            answer with a `RecursionError`, here or when they are shown; halves of
            characters, which no file can hold.
    """
    plain = text if isinstance(text, str) else text.decode("utf-8")
    try:
        content = json.loads(plain)
        if _is_deep(content):
            raise RecursionError
    except RecursionError:
        raise ValueError(
            f"lists or objects are nested more than {_DEEPEST} deep"
        ) from None
    if "\\ud" in plain.lower():
        json.dumps(content, ensure_ascii=False).encode("utf-8")
    return content


def _is_deep(content: Any) -> bool:
    level = [content]
    for _ in range(_DEEPEST):
        level = [
            part
            for one in level
            if isinstance(one, dict | list)
            for part in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return False
    return True


def to_json(results: Mapping[str, Any]) -> str:
    """The results as strict JSON (no NaN)."""
    return json.dumps(results, indent=2, allow_nan=False) + "\n"
