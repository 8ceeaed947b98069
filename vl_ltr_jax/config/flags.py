"""Command-line flags of a configuration."""

import glob
import os
import traceback
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from vl_ltr_jax.config.build import ConfigError
from vl_ltr_jax.config.settings import KEYS
from vl_ltr_jax.logs.messages import near_name, nearest, shortened

_MAX_MESSAGE_CHARS = 4000  # of a message that quotes a command line or a file


def arguments(text: str, **choices: Sequence[str]) -> dict[str, str]:
    """Returns the arguments of a configuration file, `--config=FILE:key=value,...`.

    Args:
      text: part after the colon.
      **choices: allowed values of each argument, the default first.

    Raises:
      ConfigError: an argument or its value is not one of `choices`.
    """
    values = {key: allowed[0] for key, allowed in choices.items()}
    for item in filter(None, (text or "").split(",")):
        key, _, value = item.partition("=")
        head = f"--config=FILE:{shortened(item)[1:-1]}"
        if key not in choices:
            raise ConfigError(f"{head}: unknown argument{nearest(key, choices)}")
        if value not in choices[key]:
            raise ConfigError(f"{head}: unknown value{nearest(value, choices[key])}")
        values[key] = value
    return values


def define_flag(values: flags.FlagValues = flags.FLAGS) -> Any:
    """Defines `--config=FILE` and its `--config.SECTION.KEY=VALUE` overrides."""
    return config_flags.DEFINE_config_file(
        "config",
        None,
        "Configuration file; --config.SECTION.KEY=VALUE changes a value.",
        flag_values=values,
    )


def explicit_keys(values: flags.FlagValues = flags.FLAGS) -> frozenset[str]:
    """Returns the keys that the command line has set."""
    flag = values["config"]
    return frozenset(config_flags.get_override_values(flag) if flag.present else ())


def parse_flags(values: flags.FlagValues, argv: Sequence[str]) -> list[str]:
    """Parses the flags, runs the configuration file, and returns the other words.

    Args:
      values: defined flags.
      argv: command line, with the name of the command.

    Raises:
      ConfigError: a flag or its value is wrong, or the configuration file fails.
    """
    _check_file(argv)
    try:
        return values(argv)
    except (ConfigError, flags.Error) as error:
        # The library puts a traceback of the configuration file before our message.
        _, _, message = str(error).rpartition("ConfigError: ")
        if isinstance(error, flags.UnrecognizedFlagError):
            message = _unknown_key(argv) or message
        raise ConfigError(message[:_MAX_MESSAGE_CHARS].strip()) from None
    except (Exception, SystemExit) as error:  # a configuration file is a program
        frames = [
            (frame.filename, frame.lineno)
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.name in ("<module>", "get_config")
        ]
        if isinstance(error, SyntaxError):
            frames.append((error.filename or "", error.lineno))
        elif not frames and isinstance(error, SystemExit):
            raise  # absl has printed its help
        elif not frames and (message := _unknown_key(argv)):
            raise ConfigError(message) from None
        place = "".join(f" at {file}:{line}" for file, line in frames[-1:])
        words = " ".join(str(error)[:_MAX_MESSAGE_CHARS].split())
        raise ConfigError(
            f"--config: the file fails{place}: {type(error).__name__}: {words}. "
            "A configuration file defines get_config(), see configs/."
        ) from None


def _check_file(argv: Sequence[str]) -> None:
    """Raises ConfigError if there is no such configuration file, or a second one."""
    named = False
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        flag, equals, name = word.partition("=")
        file = (name if equals else following).partition(":")[0]
        if flag not in ("--config", "-config"):
            continue
        head = f"--config={shortened(file)[1:-1]}"
        if named:
            raise ConfigError(f"{head}: a second file. Name one, and change its keys.")
        named = True
        if not os.path.isfile(file):
            folders = {os.path.dirname(file), "configs"}
            files = [p for f in folders for p in glob.glob(os.path.join(f, "*.py"))]
            raise ConfigError(f"{head}: there is no such file{near_name(file, files)}")


def _unknown_key(argv: Sequence[str]) -> str:
    """Returns a message about the first override with an unknown key, or nothing."""
    names = [f"--config.{key}" for key in KEYS]
    for word in argv:
        name = "--" + word.lstrip("-").partition("=")[0]
        if name.startswith("--config.") and name not in names:
            return f"{shortened(name)[1:-1]}: unknown key{nearest(name, names)}"
    return ""
