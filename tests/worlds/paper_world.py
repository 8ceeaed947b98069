"""The shipped configurations of the paper's data sets."""

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path

import ml_collections

from vl_ltr_jax.config import build as configs
from vl_ltr_jax.config import settings

ROOT = Path(__file__).parents[2]


@functools.cache
def get_config_of(name: str) -> Callable[[str], ml_collections.ConfigDict]:
    path = ROOT / "configs" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config


def resolved(name: str, **arguments: str) -> settings.Config:
    text = ",".join(f"{key}={value}" for key, value in arguments.items())
    return configs.resolve(get_config_of(name)(text))
