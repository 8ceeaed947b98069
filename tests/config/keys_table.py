"""Writes the table of all keys into configs/README.md.

python tests/config/keys_table.py
"""

import dataclasses
import inspect
import re
from pathlib import Path

from vl_ltr_jax.config import settings

README = Path(__file__).parents[2] / "configs" / "README.md"
BEGIN = "<!-- KEYS: begin. `python tests/config/keys_table.py` writes this part. -->"
END = "<!-- KEYS: end -->"
_COMMENT = re.compile(r"^    (\w+): .*?  # (.*)$", re.MULTILINE)


def rows(name: str, section: type) -> list[str]:
    """Returns a row for each key of a section: key, default, choices and comment."""
    sources = map(inspect.getsource, reversed(section.__mro__[:-1]))
    notes = dict(pair for source in sources for pair in _COMMENT.findall(source))
    lines = [f"### `{name}`", "", "| Key | Default | |", "|---|---|---|"]
    for field in dataclasses.fields(section):
        choices = settings.KEYS[f"{name}.{field.name}"].choices
        words = [", ".join(f"`{c}`" for c in choices), notes.get(field.name, "")]
        text = "; ".join(word for word in words if word).replace("|", "\\|")
        lines.append(f"| `{name}.{field.name}` | `{field.default!r}` | {text} |")
    return [*lines, ""]


def table() -> str:
    """Returns the part of configs/README.md between its two marks."""
    lines = [BEGIN, ""]
    for field in dataclasses.fields(settings.Config):
        if dataclasses.is_dataclass(field.default):
            lines += rows(field.name, type(field.default))
    lines += ["Without a section: `method`, see above, and `seed`, `0`.", "", END]
    return "\n".join(lines)


def updated(text: str) -> str:
    """Returns a README with the table as it is now."""
    start, end = text.index("<!-- KEYS: begin"), text.index(END) + len(END)
    return text[:start] + table() + text[end:]


if __name__ == "__main__":
    README.write_text(updated(README.read_text()))
