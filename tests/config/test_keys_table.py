"""The table of all keys in configs/README.md."""

import dataclasses

from config import keys_table
from vl_ltr_jax.config import settings


def test_the_table_of_keys_is_current():
    """Breaks if a key, a default or a comment changes without it."""
    text = keys_table.README.read_text()
    assert keys_table.updated(text) == text
    for section in dataclasses.fields(settings.Config):
        if dataclasses.is_dataclass(section.default):
            for field in dataclasses.fields(section.default):
                assert f"| `{section.name}.{field.name}` |" in text
