"""Directories of compiled programs."""

import math
import os

import jax
import pytest
from etils import epath

from vl_ltr_jax.runtime import compilation_cache

pytestmark = pytest.mark.usefixtures("jax_cache")  # no directory is set


def directory():
    return jax.config.jax_compilation_cache_dir


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("workdir", "gs://b/run/compiled"), ("gs://b/all", "gs://b/all"), ("", None)],
)
def test_the_configuration_names_the_directory(setting, expected):
    run = epath.Path("gs://b/run")
    compilation_cache.use(compilation_cache.of_run(setting, run))
    assert directory() == expected


def test_the_variable_of_jax_goes_first(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    compilation_cache.use("compiled", min_seconds=0.0)
    assert directory() is None
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0


def test_a_directory_without_write_access_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    compilation_cache.use(tmp_path / "compiled", fallback=tmp_path / "cache")
    assert directory() == str(tmp_path / "cache")


def test_a_reader_makes_no_directory(tmp_path):
    for expected in (None, str(tmp_path / "compiled")):
        compilation_cache.use(tmp_path / "compiled", min_seconds=math.inf)
        assert directory() == expected
        (tmp_path / "compiled").mkdir(exist_ok=True)
