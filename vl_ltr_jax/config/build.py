"""A ConfigDict file, turned once into the dataclasses of settings.py.

A configuration file starts from :func:`default_config` and changes values;
:func:`from_config_dict` then checks everything at once, before any device is touched.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

import ml_collections

from vl_ltr_jax.config import bounds, methods
from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.logs.messages import nearest, shortened
from vl_ltr_jax.runtime.errors import UserError
from vl_ltr_jax.storage import paths, strict_json


class ConfigError(UserError):
    """A configuration that cannot be run; the message lists every fault found."""


def default_config() -> ml_collections.ConfigDict:
    """The default configuration as a ConfigDict, for configuration files to change."""
    # Types are checked below, with all other faults, rather than one by one here.
    return ml_collections.ConfigDict(dataclasses.asdict(Config()), type_safe=False)


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
    if config.method in methods.RETRAINED:
        sizes["classifier.global_batch_size"] = config.classifier.global_batch_size
    return sizes
