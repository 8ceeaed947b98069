"""A heap that stays with the process; tried in processes that end with it."""

import os
import subprocess
import sys
import types

import pytest

from vl_ltr_jax.runtime import cpu_memory

PROGRAM = """
import resource, statistics, sys
import jax, jax.numpy as jnp
from vl_ltr_jax.runtime import cpu_memory
if sys.argv[1] == "keep" and not (cpu_memory.runs_on_cpu() and cpu_memory.keep()):
    sys.exit("not kept")
step = jax.jit(lambda x: x + 1)
x = jnp.ones(2**24)
for _ in range(20):
    step(x).block_until_ready()
fresh = []
for _ in range(9):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step(x).block_until_ready()
    fresh.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(statistics.median(fresh))  # a heap may still grow, but not at most steps
"""


def fresh_pages(word):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    command = [sys.executable, "-c", PROGRAM, word]
    done = subprocess.run(
        command, env=environment, check=False, capture_output=True, text=True
    )
    assert not done.returncode, done.stderr
    return int(done.stdout)


def test_steps_find_their_memory_where_it_was():
    """Breaks when the C library goes on taking large arrays from the system."""
    page_bytes, array_bytes = 4096, 4 * 2**24
    usual, kept = fresh_pages("leave"), fresh_pages("keep")
    assert usual >= array_bytes / page_bytes
    assert kept < usual / 10


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
