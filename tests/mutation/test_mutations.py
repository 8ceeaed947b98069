"""The edits that parity tests must catch are still edits of today's code."""

import ast

import pytest

from mutation import mutations


@pytest.mark.parametrize("edit", mutations.EDITS, ids=lambda edit: edit.description)
def test_the_edit_applies_and_parses(edit):
    ast.parse(edit.apply(mutations.ROOT))
    for name in edit.tests:
        file, _, function = name.partition("::")
        assert f"def {function}" in (mutations.ROOT / file).read_text()


def test_an_edit_without_effect_is_reported():
    """Breaks if the script runs the tests on the unchanged package."""
    edit = mutations.Edit(
        "a class of 20 images counted as few-shot",
        "vl_ltr_jax/method/shots.py",
        '"few": (0, 19)',
        '"few": (0, 20)',
        ("tests/method/test_shots.py",),
    )
    harmless = edit._replace(after=edit.before + "  ")
    assert mutations.survives(harmless)
    assert not mutations.survives(edit)
