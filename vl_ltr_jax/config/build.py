"""Checked configurations, from a ConfigDict or from JSON.

A configuration file starts from :func:`default_config` and changes values;
:func:`from_config_dict` checks them all at once, before any device is touched.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import ml_collections

from vl_ltr_jax.config import bounds, settings
from vl_ltr_jax.config.methods import REGISTRY
from vl_ltr_jax.config.settings import KEYS, Config
from vl_ltr_jax.logs.messages import nearest, shortened
from vl_ltr_jax.runtime.errors import UserError
from vl_ltr_jax.storage import paths, strict_json


class ConfigError(UserError):
    """A configuration that cannot be run; the message lists every fault."""


def default_config() -> ml_collections.ConfigDict:
    """Returns the default configuration, for configuration files to change."""
    # :func:`_typed` checks types, so that one message names all faults.
    return ml_collections.ConfigDict(dataclasses.asdict(Config()), type_safe=False)


def from_config_dict(config_dict: object, explicit: Collection[str] = ()) -> Config:
    """Returns the checked configuration of a system.

    Args:
      config_dict: result of `get_config()`: VL-LTR's values, and `method`.
      explicit: keys of the command line; the system leaves their values alone.

    Raises:
      ConfigError: a key is unknown or missing, or a value has the wrong type, is out of
        bounds or contradicts another. One message names all faults.
    """
    config = resolve(config_dict, explicit)
    check(config)
    return config


def resolve(config_dict: object, explicit: Collection[str] = ()) -> Config:
    """Returns what :func:`from_config_dict` does, with types and choices checked only.

    Paths become absolute, so that commands in another directory see the same places.
    """
    config = _typed(config_dict)
    return REGISTRY[config.method].configure(config, explicit)


def from_json(text: str) -> Config:
    """Returns the configuration that `settings.to_json` wrote; new keys are defaults.

    Raises:
      ConfigError: the text is no JSON object, or as :func:`resolve`.
    """
    config_dict = default_config()
    try:
        config_dict.update(strict_json.parse(text))
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"no configuration: {error}") from error
    return _typed(config_dict)


def check(config: Config, *, files: bool = True) -> None:
    """Raises ConfigError with all values out of bounds and all contradictions.

    Without `files`, the data set and weights may be absent.
    """
    faults = bounds.faults(config, files=files)
    _refuse([*faults, *REGISTRY[config.method].faults(config)])


def check_devices(config: Config, num_devices: int) -> None:
    """Raises ConfigError if meshes or batches do not fit the devices."""
    mesh, tuned = config.mesh, config.finetune
    # An automatic mesh.model divides the devices, or takes those that data leaves.
    beside_data = 1 if mesh.data < 1 else max(num_devices // mesh.data, 1)
    model = mesh.model or beside_data
    data = num_devices // model if mesh.data == -1 else mesh.data
    if data * model != num_devices:
        raise ConfigError(
            f"mesh.data={mesh.data}, mesh.model={mesh.model}: their product is not "
            f"{num_devices}, the number of devices. Set mesh.data=-1, which takes the "
            "rest, and mesh.model to a divisor, or to 0."
        )
    sizes = {"evaluate.batch_size": config.evaluate.batch_size}
    if config.pretrain.epochs:
        sizes["pretrain.global_batch_size"] = config.pretrain.global_batch_size
    if tuned.epochs:
        sizes["finetune.global_batch_size"] = tuned.global_batch_size
    if REGISTRY[config.method].retrains:
        sizes["classifier.global_batch_size"] = config.classifier.global_batch_size
    faults = []
    for key, size in sizes.items():
        unit, words = num_devices, f"the {num_devices} devices"
        if mesh.accumulation_steps > 1 and not key.startswith("evaluate"):
            unit *= mesh.accumulation_steps
            words += f" times mesh.accumulation_steps={mesh.accumulation_steps}"
        if size % unit:
            near = sorted({max(size // unit, 1) * unit, (size // unit + 1) * unit})
            hint = " or ".join(map(str, near))
            faults.append(f"{key}={size}: not divisible by {words}. Set {hint}.")
    _refuse(faults)


def _refuse(faults: list[str]) -> None:
    if faults:
        head = ["the configuration has faults:"] if len(faults) > 1 else []
        raise ConfigError("\n  ".join([*head, *faults]))


def _typed(config_dict: object) -> Config:
    """Returns a ConfigDict as dataclasses, if keys, types and choices are right."""
    if not isinstance(config_dict, ml_collections.ConfigDict):
        raise ConfigError(
            f"get_config() returned a {type(config_dict).__name__}, not a ConfigDict. "
            "Start from vl_ltr_jax.config.default_config()."
        )
    try:
        flat = _flat(config_dict.to_dict())
    except Exception as error:  # a reference may fail when it is evaluated
        reason = f"{type(error).__name__}: {shortened(str(error))}"
        raise ConfigError(f"the configuration cannot be read ({reason})") from None
    unknown = sorted(flat.keys() - KEYS.keys())
    faults = [f"{shortened(k)[1:-1]}: unknown key{nearest(k, KEYS)}" for k in unknown]
    for name, key in KEYS.items():
        value = flat.get(name)
        if key.kind is float and type(value) is int and abs(value) < 2**63:
            flat[name] = value = float(value)
        head = f"{name}={shortened(value)}"
        if name not in flat:
            faults.append(f"{name}: missing. Start from config.default_config().")
        elif type(value) is not key.kind:
            kinds = f"{key.kind.__name__} expected, not {type(value).__name__}"
            faults.append(f"{head}: {kinds}.")
        elif key.choices and value not in key.choices:
            choices = f"{', '.join(key.choices)}{nearest(value, key.choices)}"
            faults.append(f"{head}: not one of {choices}")
        elif name == "method" and value not in REGISTRY:
            faults.append(f"{head}: unknown{nearest(value, REGISTRY)}")
    _refuse(faults)
    flat |= {key: paths.absolute(key, flat[key]) for key in paths.KEYS}
    if flat["init.vl_ltr"]:  # its models are trained
        flat |= {"pretrain.epochs": 0, "finetune.epochs": 0}
    return settings.from_flat(flat)


def _flat(values: Mapping[Any, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if name not in settings.SECTIONS:
            flat[str(name)] = value
        elif isinstance(value, Mapping):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[f"{name}={shortened(value)}"] = value  # an unknown key
    return flat
