"""What main sets before anything runs."""

import os
import types

import jax
import pytest
from etils import epath

from vl_ltr_jax.commands import exits, flags, train
from vl_ltr_jax.config import settings
from vl_ltr_jax.runtime import compilation_cache
from vl_ltr_jax.runtime.errors import UserError
from vl_ltr_jax.storage.lock import InUseError
from vl_ltr_jax.storage.workdir import WorkdirError


@pytest.fixture
def cache_directory(jax_cache):
    """Reads JAX's setting, which is none to begin with."""
    return lambda: jax.config.jax_compilation_cache_dir


@pytest.mark.parametrize(
    ("named", "expected"),
    [("workdir", "gs://b/run/compiled"), ("gs://b/all", "gs://b/all"), ("", None)],
)
def test_compiled_programs_are_kept_where_the_configuration_says(
    named, expected, cache_directory
):
    compilation_cache.write_to(named, epath.Path("gs://b/run"))
    assert cache_directory() == expected


def test_the_variable_of_jax_goes_first(cache_directory, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    compilation_cache.write_to("workdir", epath.Path(os.sep) / "run")
    assert cache_directory() is None


@pytest.mark.parametrize("character", "[]*?")
def test_a_workdir_that_reads_as_a_pattern_is_refused(monkeypatch, tmp_path, character):
    """Its checkpoints would be lost, without a word."""
    monkeypatch.setattr(flags, "checked_config", lambda command: settings.Config())

    def checked(workdir):
        monkeypatch.setattr(flags, "_WORKDIR", types.SimpleNamespace(value=workdir))
        return flags.checked_flags(train.COMMAND)[1]

    with pytest.raises(WorkdirError) as told:
        checked(f"{tmp_path}/run{character}1")
    assert f"/run{character}1 has {character} in its path: Orbax" in str(told.value)
    for workdir in (f"{tmp_path}/run-1", f"gs://b/run{character}"):
        assert checked(workdir) == epath.Path(workdir)
    (tmp_path / character).mkdir()
    monkeypatch.chdir(tmp_path / character)
    with pytest.raises(WorkdirError, match="--workdir=run, which is /"):
        checked("run")


def test_one_of_many_processes_does_not_wait_for_the_others(monkeypatch, capsys):
    """An orderly exit meets a barrier that they, waiting for it, never reach."""

    class Ended(BaseException):
        pass

    def end(code):
        raise Ended(code)

    monkeypatch.setattr(exits.os, "_exit", end)
    with pytest.raises(SystemExit):
        exits.refuse(UserError("bad list"))
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    with pytest.raises(Ended) as ended:
        exits.refuse(UserError("bad list"))
    assert ended.value.args == (2,)
    assert capsys.readouterr().err == "error: bad list\n" * 2
    with pytest.raises(Ended) as ended:
        exits.refuse(InUseError("in use"))
    assert ended.value.args == (1,)  # the run there may be one that is ending
