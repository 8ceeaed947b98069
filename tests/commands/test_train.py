"""Workdirs and exits of commands that read a configuration."""

import os
import types

import jax
import pytest
from etils import epath

from vl_ltr_jax.commands import exits, flags, train
from vl_ltr_jax.config import build, settings
from vl_ltr_jax.runtime.errors import UserError
from vl_ltr_jax.storage.lock import InUseError
from vl_ltr_jax.storage.workdir import WorkdirError


@pytest.fixture
def workdir_of(monkeypatch):
    """Returns the workdir that `--workdir` names."""
    monkeypatch.setattr(flags, "checked_config", lambda command: settings.Config())

    def checked(value):
        monkeypatch.setattr(flags, "_WORKDIR", types.SimpleNamespace(value=value))
        return flags.checked_flags(train.COMMAND)[1]

    return checked


@pytest.mark.parametrize("character", "[]*?")
def test_a_workdir_that_reads_as_a_pattern_is_refused(workdir_of, tmp_path, character):
    """Its checkpoints would be lost in silence."""
    with pytest.raises(WorkdirError, match="Orbax"):
        workdir_of(f"{tmp_path}/run{character}1")
    for workdir in (f"{tmp_path}/run-1", f"gs://b/run{character}"):
        assert workdir_of(workdir) == epath.Path(workdir)


def test_a_missing_workdir_is_named(workdir_of):
    with pytest.raises(build.ConfigError, match="--workdir"):
        workdir_of(None)


def test_one_of_many_processes_does_not_wait_for_the_others(monkeypatch, capsys):
    """An orderly exit meets a barrier that the others, waiting for it, never reach."""

    class Ended(BaseException):
        pass

    def end(code):
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(SystemExit):
        exits.refuse(UserError("bad list"))
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    for error, code in ((UserError("bad list"), 2), (InUseError("in use"), 1)):
        with pytest.raises(Ended) as ended:
            exits.refuse(error)
        assert ended.value.args == (code,)
    assert capsys.readouterr().err.count("error: ") == 3
