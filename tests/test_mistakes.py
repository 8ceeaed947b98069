"""An error is the user's or ours, under whatever name its module runs."""

import pytest

from vl_ltr_jax import mistakes
from vl_ltr_jax.predict import UsageError


@pytest.mark.parametrize(
    ("kind", "module", "users"),
    [
        (UsageError, "vl_ltr_jax.predict", True),
        (UsageError, "__main__", True),
        (FileNotFoundError, "builtins", True),
        (ValueError, "builtins", False),
        (UsageError, "vl_ltr_jax_of_others", False),
    ],
)
def test_whose_an_error_is(monkeypatch, kind, module, users):
    """Breaks if a command that is run by `python -m` takes its own errors for bugs."""
    if module != kind.__module__:
        monkeypatch.setattr(kind, "__module__", module)
    assert mistakes.is_users(kind("x")) == users
