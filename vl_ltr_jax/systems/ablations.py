"""VL-LTR with one part changed: the switches of the paper's ablation, and ours.

Each is VL-LTR's road under another configuration.
"""

from collections.abc import Callable, Mapping
from typing import Any

from vl_ltr_jax.config.settings import Config, Method
from vl_ltr_jax.systems.recipe import Recipe, change


class Ablation(Recipe):
    """VL-LTR under a changed configuration."""

    def __init__(
        self,
        name: Method,
        title: str,
        made: Callable[[Config], Config],
        result: str = "lgr",
    ) -> None:
        """Names it and its change."""
        self.name, self.title, self.made, self.result = name, title, made, result

    def head_names(self) -> dict[str, str]:
        """VL-LTR, but for the part."""
        return {self.result: f"VL-LTR, {self.title}"}

    def configure(self, config: Config) -> Config:
        """VL-LTR's configuration with the change."""
        return self.made(super().configure(config))


def _set(**sections: Mapping[str, Any]) -> Callable[[Config], Config]:
    return lambda config: change(config, **sections)


def _without_clip(config: Config) -> Config:
    tokenizer = config.init.tokenizer or config.init.clip
    return change(
        config,
        init={"clip": "", "tokenizer": tokenizer},
        pretrain={"distillation": "none"},
    )


def _distilled(form: str) -> Callable[[Config], Config]:
    return _set(pretrain={"distillation": form})


_ALL = (
    Ablation("no_pretraining", "without pre-training", _set(pretrain={"epochs": 0})),
    Ablation("no_clip", "without CLIP weights and distillation", _without_clip),
    Ablation("no_distillation", "without distillation", _distilled("none")),
    Ablation(
        "distillation_diagonal",
        "distillation by the paper's formula",
        _distilled("diagonal"),
    ),
    Ablation("distillation_kl", "distillation by KL", _distilled("kl")),
    Ablation("fc", "FC head", _set(finetune={"head": "fc"}), "fc"),
    Ablation("knn", "kNN head", _set(evaluate={"knn": True}), "knn"),
    Ablation("cutoff", "cut-off selection", _set(anchors={"selection": "cutoff"})),
    Ablation("random", "random selection", _set(anchors={"selection": "random"})),
)
ABLATIONS: dict[str, Recipe] = {recipe.name: recipe for recipe in _ALL}
