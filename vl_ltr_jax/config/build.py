"""A ConfigDict file, turned once into the dataclasses of settings.py.

A configuration file starts from :func:`default_config` and changes values;
:func:`from_config_dict` then checks everything at once, before any device is touched.
"""

import dataclasses
import difflib
import itertools
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

import ml_collections
from absl import flags
from ml_collections import config_flags

from vl_ltr_jax.config import bounds, settings
from vl_ltr_jax.config.bounds import nearest
from vl_ltr_jax.config.settings import Config, flatten
from vl_ltr_jax.logs.console import shortened
from vl_ltr_jax.runtime.errors import UserError
from vl_ltr_jax.storage import paths, strict_json

_LONGEST_MESSAGE = 4000  # of one that quotes a command line or a file


class ConfigError(UserError):
    """A configuration that cannot be run; the message lists every fault found."""


def default_config() -> ml_collections.ConfigDict:
    """The default configuration as a ConfigDict, for configuration files to change."""
    # Types are checked below, with all other faults, rather than one by one here.
    return ml_collections.ConfigDict(dataclasses.asdict(Config()), type_safe=False)


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


def from_config_dict(config_dict: object) -> Config:
    """Checks a ConfigDict and returns it as frozen dataclasses.

    Args:
      config_dict: what `get_config()` returned, whatever it is.

    Raises:
      ConfigError: one message that names every unknown or missing key, wrong type,
        unknown choice, value out of bounds and contradiction.
    """
    config = resolve(config_dict)
    check(config)
    return config


def changed(
    config_dict: ml_collections.ConfigDict, change: Callable[[Config], Config]
) -> ml_collections.ConfigDict:
    """A ConfigDict with a change that is written for the dataclasses.

    Raises:
      ConfigError: as :func:`resolve` does.
    """
    config = change(resolve(config_dict))
    return ml_collections.ConfigDict(dataclasses.asdict(config), type_safe=False)


def from_json(text: str) -> Config:
    """The configuration that :func:`settings.to_json` wrote; new keys are defaults.

    Raises:
      ConfigError: as :func:`resolve` does, or if it is no JSON object.
    """
    try:
        given = strict_json.parse(text)
        if not isinstance(given, dict):
            raise ValueError(f"it is a {type(given).__name__}, not an object")
    except ValueError as error:
        raise ConfigError(f"no configuration: {error}") from error
    config_dict = default_config()
    config_dict.update(given)
    return resolve(config_dict)


def resolve(config_dict: object) -> Config:
    """A ConfigDict as dataclasses: keys, types and choices hold, no more is looked at.

    Paths become absolute, so that commands in another directory see the same places.

    Raises:
      ConfigError: one message that names every unknown or missing key, wrong type and
        unknown choice.
    """
    if not isinstance(config_dict, ml_collections.ConfigDict):
        raise ConfigError(
            f"get_config() returned a {type(config_dict).__name__}, not a ConfigDict; "
            "start from vl_ltr_jax.config.default_config()"
        )
    faults: list[str] = []
    try:
        values = config_dict.to_dict()
    except Exception as error:  # of references that lead to nothing, or to themselves
        reason = f"{type(error).__name__}: {shortened(str(error))}"
        raise ConfigError(f"the configuration cannot be read ({reason})") from None
    config: Config = _build(Config, values, "", faults)
    refuse(faults)
    config = _with_absolute_paths(config)
    if config.init.vl_ltr:  # what it holds is trained already
        config = dataclasses.replace(
            config,
            pretrain=dataclasses.replace(config.pretrain, epochs=0),
            finetune=dataclasses.replace(config.finetune, epochs=0),
        )
    return config


def _with_absolute_paths(config: Config) -> Config:
    for key in paths.KEYS:
        section, name = key.split(".")
        values = getattr(config, section)
        path = paths.absolute(key, getattr(values, name))
        values = dataclasses.replace(values, **{name: path})
        config = dataclasses.replace(config, **{section: values})
    return config


def check(config: Config) -> None:
    """Checks bounds and contradictions.

    Raises:
      ConfigError: one message that names them all.
    """
    refuse(bounds.faults(config))


def refuse(faults: Sequence[str]) -> None:
    """Refuses a configuration if it has faults.

    Raises:
      ConfigError: one message that names them all.
    """
    if len(faults) == 1:
        raise ConfigError(faults[0])
    if faults:
        raise ConfigError("\n  ".join(["the configuration has faults:", *faults]))


def check_devices(config: Config, num_devices: int) -> None:
    """Checks that meshes and batches fit the devices.

    Raises:
      ConfigError: if the mesh does not use `num_devices`, or a batch or its chunks do
        not divide over them.
    """
    model, data = config.mesh.model, config.mesh.data
    if data == -1 and model >= 1 and num_devices % model == 0:
        data = num_devices // model
    if model < 1 or data < 1 or data * model != num_devices:
        raise ConfigError(
            f"mesh.data={config.mesh.data} x mesh.model={model} does not use exactly "
            f"the {num_devices} devices present; mesh.data=-1 takes what is left"
        )
    chunks = config.mesh.accumulation_steps
    faults = []
    for key, size in _batch_sizes(config).items():
        by, what = num_devices, f"the {num_devices} devices"
        if chunks > 1 and not key.startswith("evaluate"):
            by, what = by * chunks, f"{what} times mesh.accumulation_steps={chunks}"
        if size % by:
            nearest = sorted({max(size // by, 1) * by, (size // by + 1) * by})
            faults.append(
                f"{key}={size} is not divisible by {what}; nearest sizes: "
                + " and ".join(map(str, nearest))
            )
    if faults:
        raise ConfigError("\n".join(faults))


def _build(cls: Any, values: Any, path: str, faults: list[str]) -> Any:
    if not isinstance(values, Mapping):
        faults.append(
            f"{path.rstrip('.')}: a section is expected, given {shortened(values)}"
        )
        return None
    fields = {field.name: field for field in dataclasses.fields(cls)}
    found_before = len(faults)
    for key in sorted(values.keys() - fields.keys(), key=str):
        name = shortened(key)[1:-1] if isinstance(key, str) else shortened(key)
        faults.append(f"{path}{name}: unknown key{nearest(key, fields)}")
    for key in sorted(fields.keys() - values.keys()):
        faults.append(f"{path}{key}: missing; start from config.default_config()")
    built = {}
    for key in sorted(fields.keys() & values.keys()):
        kind, value = fields[key].type, values[key]
        if dataclasses.is_dataclass(kind):
            built[key] = _build(kind, value, f"{path}{key}.", faults)
        else:
            built[key] = _check_type(kind, value, path + key, faults)
    return cls(**built) if len(faults) == found_before else None


def _check_type(kind: Any, value: Any, path: str, faults: list[str]) -> Any:
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        if not isinstance(value, str) or value not in choices:
            faults.append(
                f"{path}: {shortened(value)} is not one of "
                f"{', '.join(map(repr, choices))}{nearest(value, choices)}"
            )
        return value
    if kind in (int, float) and type(value) is int and abs(value) >= 2**63:
        faults.append(f"{path}: {shortened(value)} given, too large a number")
        return value
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        faults.append(
            f"{path}: {kind.__name__} expected, given {shortened(value)} "
            f"({type(value).__name__})"
        )
    return value


def _batch_sizes(config: Config) -> dict[str, int]:
    sizes = {"evaluate.batch_size": config.evaluate.batch_size}
    if config.pretrain.epochs:
        sizes["pretrain.global_batch_size"] = config.pretrain.global_batch_size
    if config.finetune.epochs:
        sizes["finetune.global_batch_size"] = config.finetune.global_batch_size
    if config.method in settings.RETRAINED:
        sizes["classifier.global_batch_size"] = config.classifier.global_batch_size
    return sizes
