"""The other systems of the paper's tables, one file each, and VL-LTR among them.

`METHODS` are the values of `config.method`, in the order of a table: `RECIPES`, then
VL-LTR's ablations.
"""

from typing import Any

from vl_ltr_jax.config import build as configs
from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.logs.messages import nearest
from vl_ltr_jax.systems.ablations import ABLATIONS
from vl_ltr_jax.systems.balanced_softmax import BalancedSoftmax
from vl_ltr_jax.systems.cb_focal import CbFocal
from vl_ltr_jax.systems.cross_entropy import Baseline
from vl_ltr_jax.systems.crt import Crt
from vl_ltr_jax.systems.ldam_drw import LdamDrw
from vl_ltr_jax.systems.logit_adjustment import LogitAdjustment, PostHocLogitAdjustment
from vl_ltr_jax.systems.lws import Lws
from vl_ltr_jax.systems.ncm import Ncm
from vl_ltr_jax.systems.recipe import Recipe, Stage
from vl_ltr_jax.systems.tau_normalized import TauNormalized
from vl_ltr_jax.systems.zero_shot import ZERO_SHOT

__all__ = [
    "METHODS",
    "NAMES",
    "RECIPES",
    "Recipe",
    "Stage",
    "check",
    "configure",
    "named",
    "recipe_of",
]

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        *ZERO_SHOT,
        Baseline(),
        Ncm(),
        Crt(),
        TauNormalized(),
        Lws(),
        CbFocal(),
        LdamDrw(),
        BalancedSoftmax(),
        LogitAdjustment(),
        PostHocLogitAdjustment(),
        Recipe(),
    )
}
METHODS: dict[str, Recipe] = {**RECIPES, **ABLATIONS}
NAMES = ("vl_ltr", *(name for name in METHODS if name != "vl_ltr"))  # default first


def named(name: str) -> Recipe:
    """The method of this name.

    Raises:
      ConfigError: naming the nearest, or all.
    """
    if name not in METHODS:
        raise configs.ConfigError(f"method {name!r} is unknown{nearest(name, METHODS)}")
    return METHODS[name]


def configure(config: Any, name: str) -> Any:
    """A configuration file's ConfigDict, changed from VL-LTR's to another method's.

    Raises:
      ConfigError: for an unknown method.
    """
    return configs.changed(config, named(name).configure)


def recipe_of(config: Config) -> Recipe:
    """The system that a configuration runs."""
    return METHODS[config.method]


def check(config: Config) -> None:
    """Checks a configuration against its method.

    Raises:
      ConfigError: one message that names every contradiction.
    """
    configs.refuse(recipe_of(config).faults(config))
