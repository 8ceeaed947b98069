"""What commands tell those who do not know them: help, and what there is to run."""

import ast
import dataclasses
import shlex
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags

HELP_FLAGS = ("--help", "-help", "--helpshort", "-h", "-?")
_WIDTH = 88
_COLUMN = 24  # where the words on a flag begin
_INDENT = " " * 2
# What stands behind `=` in the list of flags; a number where nothing else does.
_VALUES = {
    "config": "FILE",
    "workdir": "DIR",
    "coordinator_address": "HOST:PORT",
    "methods": "NAME,NAME",
    "out": "FILE",
}


@dataclasses.dataclass(frozen=True)
class Command:
    """A command as its users see it.

    Attributes:
      module: what follows `python -m`.
      purpose: what it does.
      examples: what for, and the arguments of it; the first is for beginners.
      flags: names of those it reads.
      workdir: where it might write, with `{name}` for the configuration's.
    """

    module: str
    purpose: str
    examples: Sequence[tuple[str, str]]
    flags: Sequence[str]
    workdir: str = "runs/{name}"

    def line(self, arguments: str) -> str:
        """The whole command line."""
        return f"{program('python')} -m {self.module} {arguments}"


def program(name: str) -> str:
    """How to call a program that is installed beside this Python, to be copied."""
    place = Path(sys.executable).parent / name
    if shutil.which(name) == str(place) or not place.exists():
        return name
    return shlex.quote(_shown(place))


def help_text(command: Command) -> str:
    """What `--help` prints: what it is for, examples, flags, keys, where to read on."""
    examples = [
        f"{_INDENT}# {why}\n{_INDENT}{command.line(arguments)}"
        for why, arguments in command.examples
    ]
    usage = command.line("--config=FILE [FLAGS] [--config.SECTION.KEY=VALUE]")
    listed = [_flag_lines(name) for name in command.flags]
    keys = (
        "Every key of the configuration can be changed, as in "
        "--config.pretrain.epochs=40. vl_ltr_jax/config/settings.py lists them all, "
        "with their defaults and what they mean; vl_ltr_jax.main prints those of a "
        "file with --show_config. A file may take arguments of its own, as in "
        "--config=configs/shapes_lt.py:method=crt; without --config the files that are "
        "here are listed, with their arguments."
    )
    return "\n\n".join(
        [
            _wrapped(command.purpose),
            f"usage: {usage}",
            "Examples:\n" + "\n\n".join(examples),
            "Flags:\n" + "\n".join(listed),
            _wrapped(keys),
            "README.md has the rest; --helpfull lists the flags of libraries too.",
        ]
    )


def without_config(command: Command) -> str:
    """What to say where `--config` is missing: how to begin, and what there is."""
    why, arguments = command.examples[0]
    files = configurations()
    if files:
        arguments = arguments.replace("configs", _shown(files[0].parent))
    parts = [
        "--config=FILE is missing: it names the file that says what to run.",
        f"Begin with this ({why}):\n\n{_INDENT}{command.line(arguments)}",
    ]
    if files:
        listed = "\n".join(map(_described, files))
        parts.append(
            "Files that are here, and the arguments they take, as in "
            f"--config={_shown(files[-1])}:method=crt:\n\n{listed}"
        )
    else:
        parts.append("There are no files configs/*.py here; start where they are.")
    parts.append("--help says more, and README.md what each package is for.")
    return "\n\n".join(parts)


def without_workdir(command: Command, arguments: Sequence[str]) -> str:
    """What to say where `--workdir` is missing: the same command line with it.

    Args:
      command: that was given.
      arguments: that it was given.
    """
    files = [
        word.partition("=")[2] or following
        for word, following in zip(arguments, [*arguments[1:], ""], strict=True)
        if word.lstrip("-").partition("=")[0] == "config"
    ]
    name = Path(files[-1].partition(":")[0]).stem if files else "first"
    mended = shlex.join([*arguments, f"--workdir={command.workdir.format(name=name)}"])
    return (
        "--workdir=DIR is missing: it names the directory of everything the run makes. "
        f"The whole command line:\n\n{_INDENT}{command.line(mended)}"
    )


def configurations() -> list[Path]:
    """Configuration files of the working directory, or else of the repository."""
    for place in (Path("configs"), _repository() / "configs"):
        if files := sorted(place.glob("*.py")):
            return files
    return []


def arguments_of(source: str) -> Mapping[str, tuple[str, ...]]:
    """The arguments a configuration file takes behind its colon, and their choices.

    The file is read, not run: choices that it computes are empty.

    Args:
      source: its text.

    Raises:
      SyntaxError: if it is no Python.
    """
    tree = ast.parse(source)
    constants = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return {
        keyword.arg: _choices(keyword.value, constants)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "arguments"
        for keyword in node.keywords
        if keyword.arg
    }


def _choices(node: ast.expr, constants: Mapping[str, ast.expr]) -> tuple[str, ...]:
    """Of `("a", "b")`, and of `tuple(NAME)` where NAME is a literal of the module."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "tuple" and node.args:
        node = node.args[0]
    if isinstance(node, ast.Name) and node.id in constants:
        node = constants[node.id]
    try:
        return tuple(map(str, ast.literal_eval(node)))
    except (ValueError, TypeError):
        return ()


def _described(path: Path) -> str:
    """A file's name and the first line of its docstring; its arguments below."""
    head = f"{_INDENT}{_shown(path)}"
    try:
        source = path.read_text(encoding="utf-8")
        first = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
        taken = arguments_of(source)
    except (OSError, ValueError, SyntaxError) as error:
        return f"{head}\n{_INDENT * 3}cannot be read: {error}"
    told = ", ".join(f"{n}={'|'.join(some) or 'NAME'}" for n, some in taken.items())
    below = [first, f":{told}" if told else ""]
    return "\n".join([head, *(f"{_INDENT * 3}{line}" for line in below if line)])


def _flag_lines(name: str) -> str:
    flag = flags.FLAGS[name]
    value = "" if flag.boolean else f"={_VALUES.get(name, 'N')}"
    indent = " " * _COLUMN
    told = textwrap.fill(
        flag.help,
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_on_hyphens=False,
    )
    head = f"{_INDENT}--{name}{value}"
    if len(head) < _COLUMN:
        return head.ljust(_COLUMN) + told[_COLUMN:]
    return f"{head}\n{told}"


def _repository() -> Path:
    return Path(__file__).parents[2]


def _shown(path: Path) -> str:
    """Relative to the working directory, where it lies there."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH, break_on_hyphens=False)
