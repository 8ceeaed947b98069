"""A user's mistake is one message and a code; a bug of ours keeps its traceback."""

import errno
import functools
import importlib
import pkgutil
import re
from unittest import mock

import jax
import pytest

import vl_ltr_jax
from vl_ltr_jax.commands import exits
from vl_ltr_jax.runtime import errors
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.runtime.errors import SystemFault, UserError
from vl_ltr_jax.storage.lock import InUseError

# Errors that no user can mend, each with the reason.
NOT_MENDABLE = {
    "_Enough": "the end of a benchmark's time",
    "WikiError": "the network's: fetch_text ends with 1, to be tried again",
    "WorkerDiedError": "a worker process has died: the traceback says where",
}


def classes():
    for module in pkgutil.walk_packages(vl_ltr_jax.__path__, "vl_ltr_jax."):
        for value in vars(importlib.import_module(module.name)).values():
            own = isinstance(value, type) and value.__module__ == module.name
            if own and issubclass(value, Exception):
                yield value


def test_every_error_of_the_package_is_one_that_a_user_can_mend():
    """Breaks if a new class derives from ValueError alone: it would be a traceback."""
    kinds = {kind for kind in classes() if not issubclass(kind, UserError)}
    assert {kind.__name__ for kind in kinds} <= NOT_MENDABLE.keys()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(errno.EACCES, "Permission denied", b"x"), "x: Permission"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (MemoryError("8 GiB"), "not enough memory (8 GiB)"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out\nmore"), "mesh.accumulation_steps"),
        (ValueError("Too many open files [os_error_code='24']"), "ulimit -n"),
        (Exception("I/O error: No space (os error 28)"), "No space"),
    ],
)
def test_a_fault_of_the_machine_is_named(error, words):
    with pytest.raises(SystemFault, match=re.escape(words)), errors.system_faults():
        raise error


@pytest.mark.parametrize(
    "bug", [ValueError("x"), OSError("no number"), OSError(errno.EIO, "x")]
)
def test_a_bug_or_a_failing_disk_keeps_its_traceback(bug):
    """Breaks if an entry takes a plain ValueError of ours for a user's mistake."""
    with pytest.raises(type(bug)) as raised, exits.refusing():
        raise bug
    assert raised.value is bug


def test_what_a_path_lacks_is_no_fault_of_the_machine():
    """Breaks if an absent file of a checkpoint is no damage any more."""
    assert errors.lack(FileNotFoundError(errno.ENOENT, "x", "y")) is None
    assert errors.lack(PermissionError(errno.EACCES, "x", "y"))


@pytest.mark.parametrize(("kind", "code"), [(UserError, 2), (InUseError, 1)])
def test_the_code_says_whether_to_try_again(kind, code, capsys):
    with pytest.raises(SystemExit) as ended, exits.refusing():
        raise kind("bad list")
    assert ended.value.code == code
    assert capsys.readouterr().err == "error: bad list\n"


def test_a_device_that_is_not_here_is_named(monkeypatch, request, tmp_path):
    """Breaks if the files of a run are blamed."""
    # JAX's error, for a platform without a plugin, has no message.
    monkeypatch.setattr(jax, "devices", mock.Mock(side_effect=AssertionError))
    request.addfinalizer(
        functools.partial(jax.config.update, "jax_platforms", jax.config.jax_platforms)
    )
    jax.config.update("jax_platforms", "cuda")
    with pytest.raises(meshes.DeviceError, match="JAX_PLATFORMS=cuda"):
        vl_ltr_jax.load(tmp_path)
