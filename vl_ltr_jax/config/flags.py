"""Command-line flags of a configuration."""

import difflib
import itertools
import os
import traceback
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from vl_ltr_jax.config.build import ConfigError
from vl_ltr_jax.config.settings import Config, flatten
from vl_ltr_jax.logs.messages import nearest, shortened

_LONGEST_MESSAGE = 4000  # of one that quotes a command line or a file


def arguments(text: str, **choices: Sequence[str]) -> dict[str, str]:
    """Reads the part of `--config=FILE:key=value,key=value` after the colon.

    Args:
      text: that part.
      **choices: the values allowed for each key, the default first.

    Raises:
      ConfigError: if a key or its value is not one of `choices`.
    """
    given = {key: allowed[0] for key, allowed in choices.items()}
    for item in filter(None, (text or "").split(",")):
        key, _, value = item.partition("=")
        if key not in choices:
            raise ConfigError(
                f"--config=FILE:{shortened(text)[1:-1]}: {shortened(key)} is no "
                "argument of this file"
                f"{nearest(key, choices)}"
            )
        if value not in choices[key]:
            raise ConfigError(
                f"--config=FILE:{shortened(text)[1:-1]}: {shortened(value)} is no {key}"
                f"{nearest(value, choices[key])}"
            )
        given[key] = value
    return given


def define_flag(values: flags.FlagValues = flags.FLAGS) -> Any:
    """Defines `--config=FILE` and its `--config.SECTION.KEY=VALUE` overrides."""
    return config_flags.DEFINE_config_file(
        "config",
        None,
        "Configuration file; --config.SECTION.KEY=VALUE changes a value.",
        flag_values=values,
    )


def parse_flags(values: flags.FlagValues, argv: Sequence[str]) -> list[str]:
    """Parses the flags, and runs the configuration file on the way.

    Args:
      values: the flags that there are.
      argv: the command line, its name first.

    Returns:
      What is no flag, the command's name first.

    Raises:
      ConfigError: a flag or value that cannot be parsed, or whatever the file raises.
    """
    try:
        return values(argv)
    except (ConfigError, flags.Error) as error:
        # The library puts a traceback of the configuration file before our message.
        _, _, message = str(error).rpartition("ConfigError: ")
        raise ConfigError(message[:_LONGEST_MESSAGE].strip()) from None
    except (Exception, SystemExit) as error:  # whatever a user's file may raise
        frames = [
            (getattr(error, "filename", None), getattr(error, "lineno", None)),
            *(
                (frame.filename, frame.lineno)
                for frame in reversed(traceback.extract_tb(error.__traceback__))
                if frame.name in ("<module>", "get_config")
            ),
        ]
        where = next((f" at {file}:{line}" for file, line in frames if line), "")
        if isinstance(error, SystemExit) and not where:
            raise  # it is absl's, which has printed its help
        words = " ".join(str(error)[:_LONGEST_MESSAGE].split())
        raise ConfigError(
            f"--config: the file fails{where}: {type(error).__name__}: {words}; "
            "a configuration file defines get_config(), see configs/"
        ) from None


def check_flag_names(argv: Sequence[str]) -> None:
    """Checks the flags before they are parsed, where a mistake is a traceback.

    Raises:
      ConfigError: naming a missing file, two files, or a wrong key and the nearest
        one.
    """
    known = flatten(Config())
    files: list[str] = []
    for argument, following in itertools.pairwise([*argv, ""]):
        if argument in ("-config", "--config") or argument.startswith(
            ("-config=", "--config=")
        ):
            files.append(argument.partition("=")[2] or following)
            file = files[-1].partition(":")[0]
            if not os.path.isfile(file):
                raise ConfigError(
                    f"--config={shortened(file)[1:-1]}: there is no such file"
                )
            if files[1:]:
                both = " and ".join(f"--config={shortened(f)[1:-1]}" for f in files)
                raise ConfigError(
                    f"{both}: a run has one configuration file; name one, and change "
                    "its values by --config.KEY=VALUE"
                )
        name = argument.lstrip("-").partition("=")[0]
        key = name.removeprefix("config.")
        if argument.startswith("-") and key != name and key not in known:
            near = difflib.get_close_matches(key[:100], known, n=1)
            hint = (
                f"did you mean --config.{near[0]}?"
                if near
                else "keys are " + (", ".join(known))
            )
            raise ConfigError(
                f"--{shortened(name)[1:-1]}: there is no such key; {hint}"
            )
