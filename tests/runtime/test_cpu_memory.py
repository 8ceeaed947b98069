"""The platforms on which the heap stays with the process."""

import types

import pytest

from vl_ltr_jax.runtime import cpu_memory


@pytest.mark.parametrize(
    ("platforms", "plugin", "found"),
    [
        ("cpu", "libtpu", True),
        ("cuda,cpu", None, False),
        ("", None, True),
        ("", "libtpu", False),
        (None, "libtpu", False),
    ],
)
def test_an_accelerator_is_seen_without_starting_it(
    monkeypatch, platforms, plugin, found
):
    config = types.SimpleNamespace(jax_platforms=platforms)
    monkeypatch.setattr(cpu_memory.jax, "config", config)
    monkeypatch.setattr(cpu_memory.importlib.metadata, "entry_points", lambda group: ())
    monkeypatch.setattr(
        cpu_memory.importlib.util,
        "find_spec",
        lambda name: plugin if name == plugin else None,
    )
    assert cpu_memory.runs_on_cpu() is found


def test_a_registered_plugin_is_an_accelerator(monkeypatch):
    config = types.SimpleNamespace(jax_platforms=None)
    monkeypatch.setattr(cpu_memory.jax, "config", config)
    monkeypatch.setattr(
        cpu_memory.importlib.metadata,
        "entry_points",
        lambda group: (group,) if group == "jax_plugins" else (),
    )
    assert not cpu_memory.runs_on_cpu()
