"""Flags shared by the commands that read a configuration."""

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence

from absl import app, flags
from etils import epath

from vl_ltr_jax import systems
from vl_ltr_jax.commands import command as commands
from vl_ltr_jax.commands import exits, process
from vl_ltr_jax.commands.command import Command
from vl_ltr_jax.config import build as configs
from vl_ltr_jax.config import flags as config_flags
from vl_ltr_jax.config import settings
from vl_ltr_jax.logs import console
from vl_ltr_jax.runtime import cluster
from vl_ltr_jax.storage import paths
from vl_ltr_jax.storage.workdir import path_of

_CONFIG = config_flags.define_flag()
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of all results, local or in a bucket."
)
_QUIET = flags.DEFINE_bool(
    "quiet", False, "Print warnings, errors and the place of the result only."
)
SHOW_CONFIG = flags.DEFINE_bool(
    "show_config", False, "Print the resolved configuration and end."
)
TAKE_OVER = flags.DEFINE_bool(
    "take_over",
    False,
    "Use a workdir without file locks, such as a bucket, that a killed run has left.",
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    None,
    "True: one of many processes, as the cluster says (on a TPU VM its metadata "
    "server). False: one process. By default the environment decides.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address",
    None,
    "HOST:PORT of process 0, if the cluster does not say it "
    "(or JAX_COORDINATOR_ADDRESS).",
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "Number of processes (or JAX_NUM_PROCESSES)."
)
_PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "Number of this process, from 0 (or JAX_PROCESS_ID)."
)


def checked_config(command: Command, *, files: bool = True) -> settings.Config:
    """Returns the configuration that the flags name.

    Args:
      command: description of the running command.
      files: False if data set and weights may be absent.

    Raises:
      ConfigError: `--config` is missing, or the configuration has faults.
    """
    if not _CONFIG.value:
        raise configs.ConfigError(commands.without_config(command))
    config = configs.resolve(_CONFIG.value, config_flags.explicit_keys())
    configs.check(config, files=files)
    return config


def checked_flags(command: Command) -> tuple[settings.Config, epath.Path]:
    """Returns the configuration and the workdir that the flags name.

    Args:
      command: description of the running command.

    Raises:
      ConfigError: a flag is missing, or the configuration has faults.
      WorkdirError: the workdir is unusable.
    """
    config = checked_config(command)
    if not _WORKDIR.value:
        raise configs.ConfigError(
            "--workdir=DIR: missing. Name the directory of all results, for example "
            f"--workdir=runs/{config.data.name or config.data.source}."
        )
    return config, path_of(_WORKDIR.value)


def show_config(systems_shown: Sequence[str] = (), *, command: Command) -> None:
    """Prints the resolved configuration; its paths may be absent.

    Args:
      systems_shown: systems to print it for; empty for the file's own.
      command: description of the running command.

    Raises:
      ConfigError: `--config` is missing, or a key, type or choice is wrong.
    """
    if not _CONFIG.value:
        raise configs.ConfigError(commands.without_config(command))
    config = configs.resolve(_CONFIG.value, config_flags.explicit_keys())
    changed = {name: systems.METHODS[name].configure(config) for name in systems_shown}
    if changed:
        content = {name: dataclasses.asdict(value) for name, value in changed.items()}
        print(json.dumps(content, indent=2))
    else:
        print(settings.to_json(config))
    for name, value in (changed or {config.method: config}).items():
        try:
            configs.check(value)
        except configs.ConfigError as error:
            console.warn(f"{name} would end here: {error}")


def join_processes() -> None:
    """Joins the other processes of the run, if there are any.

    Raises:
      ClusterError: flags or environment contradict each other, or a process is absent.
    """
    addresses = {
        "coordinator_address": _COORDINATOR.value,
        "num_processes": _NUM_PROCESSES.value,
        "process_id": _PROCESS_ID.value,
    }
    cluster.join(cluster.processes(addresses, os.environ, _DISTRIBUTED.value))


def start(main: Callable[[Sequence[str]], None], command: Command) -> None:
    """Runs a command that reads a configuration, through absl.

    Args:
      main: body of the command; takes the arguments that are no flags.
      command: its description for `--help`.
    """
    if set(sys.argv[1:]) & set(commands.HELP_FLAGS):
        modules = dict.fromkeys((__name__, main.__module__))
        print(commands.help_text(command, tuple(modules)))
        sys.exit(0)
    sys.argv[1:] = paths.expand_arguments(sys.argv[1:])
    process.prepare()
    try:
        app.run(main, flags_parser=_parse)
    except KeyboardInterrupt:
        console.error("interrupted: the same command goes on from the last checkpoint")
        sys.exit(128 + signal.SIGINT)


def _parse(argv: Sequence[str]) -> list[str]:
    """Parses the flags, and runs the configuration file on the way."""
    with exits.refusing():
        arguments = config_flags.parse_flags(flags.FLAGS, argv)
        if arguments[1:]:
            raise configs.ConfigError(
                f"{arguments[1]!r} is no flag. Write settings as --config.KEY=VALUE."
            )
    console.be_quiet(_QUIET.value)
    return arguments
