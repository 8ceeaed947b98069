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
    """The head that a run is made for, of those that it evaluates."""
    wanted = (systems.recipe_of(config).result, "lgr", "fc", "zero_shot", *heads)
    return next(name for name in wanted if name in heads)


def title(config: Config) -> str:
    """What the report of a run is called: data set, system, seed."""
    system = systems.recipe_of(config).title
    return f"{config.data.name}: {system}, seed {config.seed}"


def head_names(config: Config) -> dict[str, str]:
    """What the heads of a run are called.

    Once the towers are pre-trained, zero-shot is no longer that of CLIP.
    """
    if config.pretrain.epochs:
        zero_shot = "Zero-shot, pre-trained towers"
    else:
        zero_shot = "Zero-shot CLIP" if config.init.clip else "Zero-shot, random towers"
    own = systems.recipe_of(config).head_names()
    return {**HEAD_NAMES, "zero_shot": zero_shot, **own}
