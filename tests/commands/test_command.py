"""Help texts and examples of commands, and command lines without required flags."""

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
    predict,
    prepare_data,
    replay,
    show_data,
    train,
)
from vl_ltr_jax.commands import flags as commands_flags

ROOT = Path(__file__).parents[2]
WITH_CONFIG = (train, compare, check_data, show_data)
WITHOUT_CONFIG = (export, port, fetch_text, predict, prepare_data, replay)


@pytest.mark.parametrize(
    "module", [*WITH_CONFIG, *WITHOUT_CONFIG], ids=lambda m: m.__name__
)
def test_help_has_the_examples(module, monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        if module in WITH_CONFIG:
            monkeypatch.setattr(sys, "argv", ["program", "--help"])
            commands_flags.start(module.main, module.COMMAND)
        else:
            module.main(["--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    for purpose, arguments in module.COMMAND.examples:
        assert f"  # {purpose}\n" in text
        assert f"-m {module.COMMAND.module} {arguments}" in text


@pytest.mark.parametrize("module", WITH_CONFIG, ids=lambda m: m.__name__)
def test_examples_name_files_and_flags_that_exist(module):
    for _, arguments in module.COMMAND.examples:
        for word in arguments.split():
            name, _, value = word.removeprefix("--").partition("=")
            if name == "config":
                assert (ROOT / value.partition(":")[0]).is_file()
            elif not name.startswith("config."):
                assert name in flags.FLAGS


def test_a_start_without_arguments_ends_with_an_example():
    done = subprocess.run(
        [sys.executable, "-m", "vl_ltr_jax.main"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --config=FILE")
