"""What commands tell a newcomer: help, configurations, a command line mended."""

import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

from vl_ltr_jax.commands import (
    check_data,
    compare,
    export,
    fetch_text,
    port,
    prepare_data,
    show_data,
    train,
)
from vl_ltr_jax.commands import flags as commands_flags
from vl_ltr_jax.commands import help as usage
from vl_ltr_jax.config.build import ConfigError

ROOT = Path(__file__).parents[2]
MODULES = (train, compare, check_data, show_data)
COMMANDS = [module.COMMAND for module in MODULES]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A working directory with one configuration, which must not be run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    file = tmp_path / "configs" / "birds.py"
    file.write_text(
        '"""Birds of the garden.\n\nMore.\n"""\nSIZES = {"big": 1, "small": 2}\n'
        "raise AssertionError('it was run')\n"
        "given = arguments(arg, size=tuple(SIZES), seed=('0', '1'), method=NAMES)\n"
    )
    return file


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_help_has_examples_and_every_flag_of_the_command(module, monkeypatch, capsys):
    command = module.COMMAND
    monkeypatch.setattr(sys, "argv", ["program", "--help"])
    with pytest.raises(SystemExit) as ended:
        commands_flags.start(module.main, command)
    said = capsys.readouterr()
    assert (ended.value.code, said.err) == (0, "")
    own = {flag.name for flag in flags.FLAGS.get_key_flags_for_module(module)}
    assert own <= set(command.flags)
    for flag in map(flags.FLAGS.__getitem__, command.flags):
        assert f"  --{flag.name}" in said.out
        assert " ".join(flag.help.split()) in " ".join(said.out.split())
    for why, arguments in command.examples:
        assert f"  # {why}\n" in said.out
        assert f"-m {command.module} {arguments}\n" in said.out
    assert "--config.SECTION.KEY=VALUE" in said.out
    assert "vl_ltr_jax/config/settings.py" in said.out and "README.md" in said.out


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.module)
def test_examples_name_files_and_flags_that_exist(command):
    for _, arguments in command.examples:
        for word in arguments.split():
            name, _, value = word.removeprefix("--").partition("=")
            if name == "config":
                assert (ROOT / value.partition(":")[0]).is_file()
            elif not name.startswith("config."):
                assert name in flags.FLAGS and name in command.flags


@pytest.mark.parametrize(
    ("module", "entry"),
    [
        (export, "export"),
        (port, "models.port"),
        (fetch_text, "data.fetch_text"),
        (prepare_data, "data.tfds_builders"),
    ],
)
def test_help_of_other_commands_has_examples(module, entry, capsys):
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert "examples:\n  # " in said and f"  python -m vl_ltr_jax.{entry} " in said


def test_without_a_configuration_those_that_are_here_are_listed(elsewhere):
    said = usage.without_config(train.COMMAND)
    assert "--config=FILE is missing" in said
    assert f"\n\n  {train.COMMAND.line(train.COMMAND.examples[0][1])}\n" in said
    assert (
        "  configs/birds.py\n      Birds of the garden.\n"
        "      :size=big|small, seed=0|1, method=NAME\n"
    ) in said


def test_a_configuration_that_is_no_python_does_not_hide_the_others(elsewhere):
    elsewhere.with_name("a.py").write_text("def get_config(:\n")
    said = usage.without_config(train.COMMAND)
    assert "  configs/a.py\n      cannot be read: " in said
    assert "Birds of the garden." in said


def test_away_from_any_configuration_the_repositorys_are_listed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = usage.without_config(train.COMMAND)
    for file in (ROOT / "configs").glob("*.py"):
        assert f"  {file}\n" in said


def test_arguments_of_the_shipped_configurations_are_told():
    """Breaks when a file takes its choices from where nobody can read them."""
    source = (ROOT / "configs" / "inat18.py").read_text()
    assert usage.arguments_of(source) == {
        "backbone": ("ViT-B/16", "ViT-B/32", "RN50"),
        "image_size": ("224", "384"),
        "method": (),
    }


@pytest.mark.parametrize(
    "given, mended",
    [
        (
            ["--config=configs/birds.py:method=crt"],
            "--config=configs/birds.py:method=crt --workdir=runs/birds",
        ),
        (
            ["--config", "a b.py", "--config.seed=3"],
            "--config 'a b.py' --config.seed=3 '--workdir=runs/a b'",
        ),
    ],
)
def test_without_a_workdir_the_whole_command_line_is_told(given, mended):
    said = usage.without_workdir(train.COMMAND, given)
    assert "--workdir=DIR is missing" in said
    assert said.splitlines()[-1] == f"  {train.COMMAND.line(mended)}"


@pytest.mark.parametrize("module", [compare, check_data, show_data])
def test_each_command_names_itself(module, monkeypatch):
    monkeypatch.setattr(commands_flags, "_CONFIG", type("Flag", (), {"value": None}))
    with pytest.raises(ConfigError, match=f"-m {module.COMMAND.module} --config="):
        commands_flags.checked_config(module.COMMAND)


def test_a_start_without_arguments_ends_with_how_to_begin():
    done = subprocess.run(
        [sys.executable, "-m", "vl_ltr_jax.main"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --config=FILE is missing")
    assert "  configs/shapes_lt.py\n      The embedded long-tailed world" in done.stderr
