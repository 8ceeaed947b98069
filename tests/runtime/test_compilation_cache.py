"""Directories of compiled programs."""

import math
import os

import jax
import pytest
from etils import epath

from vl_ltr_jax.runtime import compilation_cache


@pytest.fixture(autouse=True)
def cache(jax_cache):
    """No directory is set."""


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
    for writable in (True, False):
        monkeypatch.setattr(os, "access", lambda *_, w=writable: w)
        compilation_cache.use(tmp_path / "compiled", fallback=tmp_path / "cache")
        assert directory() == str(tmp_path / ("compiled" if writable else "cache"))


def test_a_reader_makes_no_directory(tmp_path):
    place = tmp_path / "compiled"
    compilation_cache.use(place, min_seconds=math.inf)
    assert directory() is None
    place.mkdir()
    compilation_cache.use(place, min_seconds=math.inf)
    assert directory() == str(place)
