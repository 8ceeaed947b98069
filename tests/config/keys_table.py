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
_FIELD = re.compile(r"^    (\w+): .*?(?:  # (.*))?$")


def comments(section: type) -> dict[str, str]:
    """Returns the comment on each field of a dataclass."""
    notes: dict[str, str] = {}
    for base in reversed(section.__mro__[:-1]):
        for line in inspect.getsource(base).splitlines():
            if match := _FIELD.match(line):
                notes[match[1]] = match[2] or notes.get(match[1], "")
    return notes


def rows(name: str, section: type) -> list[str]:
    """Returns a row for each key of a section: key, default, choices and comment."""
    notes = comments(section)
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
