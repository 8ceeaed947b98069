"""Help of commands, and messages for a command line without its required flags."""

import argparse
import dataclasses
import os
import shlex
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from vl_ltr_jax.logs import console
from vl_ltr_jax.storage import paths

HELP_FLAGS = ("--help", "-help", "--helpshort", "-h", "-?")
_KEYS = """\
Every key of the configuration is a flag, for example --config.pretrain.epochs=40.
configs/README.md lists all keys; --show_config prints those of a file. A file may take
arguments, for example --config=configs/shapes_lt.py:method=crt."""


@dataclasses.dataclass(frozen=True)
class Command:
    """Description of a command for its users.

    Attributes:
      module: name after `python -m`.
      purpose: sentences for the head of the help text.
      examples: (purpose, arguments) of command lines; the first is for beginners.
    """

    module: str
    purpose: str
    examples: Sequence[tuple[str, str]]

    def line(self, arguments: str) -> str:
        """Returns the command line with these arguments."""
        return f"{program('python')} -m {self.module} {arguments}"

    def examples_text(self) -> str:
        """Returns the examples as lines of the help text."""
        lines = [f"  # {why}\n  {self.line(words)}" for why, words in self.examples]
        return "examples:\n" + "\n\n".join(lines)

    def parser(self, *, quiet: bool = False) -> argparse.ArgumentParser:
        """Returns a parser for a command that reads no configuration.

        Args:
          quiet: adds the flag --quiet.
        """
        parser = argparse.ArgumentParser(
            prog=f"python -m {self.module}",
            description=textwrap.fill(self.purpose, 88),
            epilog=self.examples_text(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if quiet:
            parser.add_argument("--quiet", action="store_true", help="hide progress")
        return parser


def parse(
    parser: argparse.ArgumentParser, arguments: Sequence[str]
) -> argparse.Namespace:
    """Parses a command line, with `~` as the home directory, and applies --quiet."""
    parsed = parser.parse_args(paths.expand_arguments(arguments))
    console.be_quiet(getattr(parsed, "quiet", False))
    return parsed


def program(name: str) -> str:
    """Returns the name or path that calls a program installed next to this Python."""
    place = Path(sys.executable).parent / name
    if shutil.which(name) == str(place) or not place.exists():
        return name
    here = Path.cwd()
    return shlex.quote(str(place.relative_to(here) if here in place.parents else place))


def help_text(command: Command, modules: Sequence[str]) -> str:
    """Returns the help of a command that reads a configuration.

    Args:
      command: its description.
      modules: names of the modules that define its flags.
    """
    return "\n\n".join(
        [
            textwrap.fill(command.purpose, 88),
            "usage: " + command.line("--config=FILE [FLAGS] [--config.KEY=VALUE]"),
            command.examples_text(),
            *(flags.FLAGS.module_help(module).strip() for module in modules),
            _KEYS,
        ]
    )


def without_config(command: Command) -> str:
    """Returns the message for a command line without `--config`."""
    why, arguments = command.examples[0]
    names = ", ".join(map(os.fspath, configurations())) or "none in configs/"
    return (
        f"--config=FILE: missing. Begin with ({why}):\n"
        f"  {command.line(arguments)}\nConfigurations: {names}. --help has more."
    )


def configurations() -> list[Path]:
    """Configuration files of the working directory, or else of the repository."""
    for directory in (Path("configs"), Path(__file__).parents[2] / "configs"):
        if files := sorted(directory.glob("*.py")):
            return files
    return []
