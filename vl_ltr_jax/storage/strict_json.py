"""JSON texts: reading with one kind of error, writing without NaN."""

import json
from collections.abc import Mapping
from typing import Any


def parse(text: str | bytes) -> Any:
    """Reads JSON; bytes are UTF-8.

    Raises:
      ValueError: it is no JSON, or is nested too deep for Python.
    """
    try:
        return json.loads(text if isinstance(text, str) else text.decode("utf-8"))
    except RecursionError:
        raise ValueError("lists or objects are nested too deep") from None


def to_json(results: Mapping[str, Any]) -> str:
    """Returns results as strict JSON, without NaN."""
    return json.dumps(results, indent=2, allow_nan=False) + "\n"
