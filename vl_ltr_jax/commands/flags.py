"""Flags that commands with a configuration share."""

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging
from etils import epath

from vl_ltr_jax import systems
from vl_ltr_jax.commands import exits
from vl_ltr_jax.commands import help as usage
from vl_ltr_jax.config import build as configs
from vl_ltr_jax.config import flags as config_flags
from vl_ltr_jax.config import settings
from vl_ltr_jax.logs import console
from vl_ltr_jax.runtime import cluster, cpu_memory
from vl_ltr_jax.storage import paths
from vl_ltr_jax.storage.workdir import path_of

_CONFIG = config_flags.define_flag()
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of everything the command makes, local or a bucket."
)
_QUIET = flags.DEFINE_bool(
    "quiet", False, "Print warnings, errors and where the result is, no more."
)
SHOW_CONFIG = flags.DEFINE_bool(
    "show_config", False, "Print the resolved configuration and end."
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    None,
    "True: one of many, the cluster says which (on a TPU VM its metadata server); "
    "False: one process. By default the environment decides.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address",
    None,
    "HOST:PORT of process 0, where the cluster does not say "
    "(or JAX_COORDINATOR_ADDRESS).",
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "How many processes (or JAX_NUM_PROCESSES)."
)
_PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "Which one this is, from 0 (or JAX_PROCESS_ID)."
)
RUN_FLAGS = (
    *("config", "workdir", "show_config", "quiet"),
    *("distributed", "coordinator_address", "num_processes", "process_id"),
)


def checked_config(command: usage.Command) -> settings.Config:
    """The configuration that the flags name, for commands without a workdir.

    Args:
      command: that was called, for messages.

    Raises:
      ConfigError: if there is none, or it has faults.
    """
    if not _CONFIG.value:
        raise configs.ConfigError(usage.without_config(command))
    config = configs.from_config_dict(_CONFIG.value)
    systems.check(config)
    return config


def checked_flags(
    command: usage.Command,
) -> tuple[settings.Config, epath.Path]:
    """The configuration and the workdir that the flags name.

    Args:
      command: that was called, for messages.

    Raises:
      ConfigError: if a flag is missing, or the configuration has faults.
      WorkdirError: if the workdir cannot be one.
    """
    config = checked_config(command)
    if not _WORKDIR.value:
        raise configs.ConfigError(usage.without_workdir(command, sys.argv[1:]))
    return config, path_of(_WORKDIR.value)


def show_config(methods: Sequence[str] = (), *, command: usage.Command) -> None:
    """Prints the resolved configuration; paths in it need not be there.

    Args:
      methods: prints that of each of these, under their names.
      command: that was called, for messages.

    Raises:
      ConfigError: if there is none, or a key, type or choice is wrong.
    """
    if not _CONFIG.value:
        raise configs.ConfigError(usage.without_config(command))
    config = configs.resolve(_CONFIG.value)
    changed = {name: systems.named(name).configure(config) for name in methods}
    if methods:
        shown = {name: dataclasses.asdict(one) for name, one in changed.items()}
        print(json.dumps(shown, indent=2))
    else:
        print(settings.to_json(config))
    for name, one in (changed or {config.method: config}).items():
        try:
            configs.check(one)
            systems.check(one)
        except configs.ConfigError as error:
            console.warn(f"{name} would end here: {error}")


def join_processes() -> None:
    """Meets the other processes of the run, if there are any.

    Raises:
      ClusterError: if flags or environment say so wrongly, or they do not come.
    """
    flags_given = {
        "coordinator_address": _COORDINATOR.value,
        "num_processes": _NUM_PROCESSES.value,
        "process_id": _PROCESS_ID.value,
    }
    cluster.join(cluster.processes(flags_given, os.environ, _DISTRIBUTED.value))


def start(
    entry: Callable[[Sequence[str]], None], command: usage.Command | None = None
) -> None:
    """Checks the names of the --config flags, then hands over to absl.

    Args:
      entry: the command, given what is left of its arguments.
      command: what `--help` tells of it; without one, absl's list of flags.
    """
    if command is not None and set(sys.argv[1:]) & set(usage.HELP_FLAGS):
        print(usage.help_text(command))
        sys.exit(0)
    sys.argv[1:] = paths.expand_arguments(sys.argv[1:])
    with exits.refusing():
        config_flags.check_flag_names(sys.argv[1:])
    if cpu_memory.runs_on_cpu():
        cpu_memory.keep()
    # At INFO, Orbax tells of every file; the stages say what a person wants to know.
    logging.set_verbosity(logging.WARNING)
    try:
        app.run(entry, flags_parser=_parse)
    except KeyboardInterrupt:  # a traceback would tell nobody anything
        console.error("interrupted: the same command goes on from the last checkpoint")
        sys.exit(128 + signal.SIGINT)
    finally:
        console.end_lines()  # above a traceback, where there is one


def _parse(argv: Sequence[str]) -> list[str]:
    """Parses the flags, and runs the configuration file on the way."""
    with exits.refusing():
        rest = config_flags.parse_flags(flags.FLAGS, argv)
    console.be_quiet(_QUIET.value)
    logging.get_absl_handler().addFilter(console.make_room)
    if rest[1:]:
        exits.refuse(
            configs.ConfigError(
                f"{rest[1]!r} is no flag; settings are written --config.KEY=VALUE"
            )
        )
    return rest
