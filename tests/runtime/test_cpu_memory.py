"""Platforms on which memory stays with the process."""

import types

import pytest

from vl_ltr_jax.runtime import cpu_memory


@pytest.mark.parametrize(
    ("platforms", "library", "plugins", "expected"),
    [
        ("cpu", "libtpu", (), True),
        ("cuda,cpu", None, (), False),
        ("", None, (), True),
        ("", "libtpu", (), False),
        (None, "libtpu", (), False),
        (None, None, ("jax_plugins",), False),
    ],
)
def test_an_accelerator_is_noticed_without_starting_it(
    monkeypatch, platforms, library, plugins, expected
):
    config = types.SimpleNamespace(jax_platforms=platforms)
    monkeypatch.setattr(cpu_memory.jax, "config", config)
    monkeypatch.setattr(
        cpu_memory.importlib.metadata,
        "entry_points",
        lambda group: plugins if group in plugins else (),
    )
    monkeypatch.setattr(
        cpu_memory.importlib.util,
        "find_spec",
        lambda name: library if name == library else None,
    )
    assert cpu_memory.runs_on_cpu() is expected
