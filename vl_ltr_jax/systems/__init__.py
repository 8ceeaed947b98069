"""The other systems of the paper's tables, one file each, and VL-LTR among them.

`METHODS` are the values of `config.method`, in the order of a table: `RECIPES`, then
VL-LTR's ablations.
"""

from vl_ltr_jax.config import methods
from vl_ltr_jax.config.build import ConfigError
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

__all__ = ["METHODS", "NAMES", "RECIPES", "Recipe", "Stage", "recipe_of"]

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
methods.REGISTRY.update(METHODS)


def recipe_of(config: Config) -> Recipe:
    """Returns the system that a configuration runs.

    Raises:
      ConfigError: there is no such method.
    """
    if config.method not in METHODS:
        near = nearest(config.method, METHODS)
        raise ConfigError(f"method={config.method!r}: unknown{near}")
    return METHODS[config.method]
