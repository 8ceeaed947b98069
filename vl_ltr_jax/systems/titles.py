"""Titles of systems and names of their heads."""

from collections.abc import Collection

from vl_ltr_jax import systems
from vl_ltr_jax.config.settings import Config

HEAD_NAMES = {
    "lgr": "VL-LTR (LGR)",
    "fc": "FC",
    "knn": "kNN over sentences",
    "zero_shot": "Zero-shot",
}


def own_head(config: Config, heads: Collection[str]) -> str:
    """Returns the head, among those evaluated, whose accuracy is the run's result."""
    preferred = (systems.recipe_of(config).result, "lgr", "fc", "zero_shot", *heads)
    return next(name for name in preferred if name in heads)


def title(config: Config) -> str:
    """Returns the title of a run's report: data set, system, seed."""
    system = systems.recipe_of(config).title
    return f"{config.data.name}: {system}, seed {config.seed}"


def head_names(config: Config) -> dict[str, str]:
    """Returns the names of a run's heads.

    Once the towers are pre-trained, zero-shot is no longer CLIP's.
    """
    if config.pretrain.epochs:
        zero_shot = "Zero-shot, pre-trained towers"
    else:
        zero_shot = "Zero-shot CLIP" if config.init.clip else "Zero-shot, random towers"
    own = systems.recipe_of(config).head_names()
    return {**HEAD_NAMES, "zero_shot": zero_shot, **own}
