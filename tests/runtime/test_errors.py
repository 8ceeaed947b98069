"""A user's mistake is one message and a code; a bug of ours keeps its traceback."""

import errno
import importlib
import pkgutil

import jax
import pytest

import vl_ltr_jax
from vl_ltr_jax.commands import exits, predict, replay
from vl_ltr_jax.config import build as configs
from vl_ltr_jax.config import settings
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
        (OSError(errno.ENOSPC, "No space left on device"), ["No space left"]),
        (FileNotFoundError(errno.ENOENT, "No such file", "a/b"), ["a/b: No such file"]),
        (PermissionError(errno.EACCES, "Permission denied", b"x"), ["x: Permission"]),
        (OSError(errno.ENAMETOOLONG, "File name too long", "y"), ["y: File name"]),
        (OSError(errno.EMFILE, "Too many open files"), ["ulimit -n"]),
        (MemoryError("8 GiB"), ["not enough memory (8 GiB)", "ulimit -v"]),
        (RuntimeError("can't start new thread"), ["thread", "ulimit -u"]),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9\nmore"),
            ["Out of memory allocating 9)", "mesh.accumulation_steps"],
        ),
        (ValueError("Too many open files [os_error_code='24']"), ["ulimit -n"]),
        (Exception("I/O error: No space (os error 28)"), ["No space", "Make room"]),
    ],
)
def test_a_fault_of_the_machine_says_what_it_is(error, words):
    with pytest.raises(SystemFault) as raised, errors.system_faults():
        raise error
    assert all(word in str(raised.value) for word in words)
    assert raised.value.__cause__ is error


@pytest.mark.parametrize(
    "bug",
    [ValueError("x"), KeyError("x"), OSError("no number"), OSError(errno.EIO, "x")],
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
    assert errors.lack(KeyError("can't start new thread")) is None


@pytest.mark.parametrize(("kind", "code"), [(UserError, 2), (InUseError, 1)])
def test_the_code_says_whether_to_try_again(kind, code, capsys):
    with pytest.raises(SystemExit) as ended, exits.refusing():
        raise kind("bad list")
    assert ended.value.code == code
    assert capsys.readouterr().err == "error: bad list\n"


@pytest.fixture
def no_device(monkeypatch):
    """Raises JAX's error for JAX_PLATFORMS=cuda without a plugin: no message."""

    def devices():
        raise AssertionError

    monkeypatch.setattr(jax, "devices", devices)
    before = jax.config.jax_platforms
    jax.config.update("jax_platforms", "cuda")
    yield
    jax.config.update("jax_platforms", before)


def test_a_device_that_is_not_here_is_named(no_device, tmp_path, capsys):
    """Breaks if the files of a run are blamed, or are to be deleted."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "a.png").touch()
    for ask in (meshes.devices, lambda: vl_ltr_jax.load(tmp_path)):
        with pytest.raises(meshes.DeviceError, match="JAX_PLATFORMS=cuda"):
            ask()
    assert predict.main([f"--workdir={tmp_path}", str(tmp_path / "a.png")]) == 2
    message = capsys.readouterr().err
    assert "JAX_PLATFORMS=cuda" in message and str(tmp_path) not in message


def test_a_model_that_is_absent_is_named_in_a_line(tmp_path, capsys):
    """Breaks if what a run started from is a traceback, or its files are blamed."""
    absent = str(tmp_path / "absent")
    config = configs.default_config()
    config.update_from_flattened_dict(
        {"data.source": "shapes", "data.name": "s", "init.clip": absent}
    )
    text = settings.to_json(configs.resolve(config))
    (tmp_path / "config.json").write_text(text)
    assert replay.main([f"--workdir={tmp_path}"]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: init.clip: no path '{absent}'")
    assert message.count("\n") == 1
