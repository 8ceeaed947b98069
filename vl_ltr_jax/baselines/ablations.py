"""VL-LTR with one part changed: the switches of the paper's ablation, and ours.

Each is VL-LTR's road under another configuration.
"""

from collections.abc import Callable, Mapping
from typing import Any

from vl_ltr_jax.baselines.recipe import Recipe, change
from vl_ltr_jax.settings import Config


class Ablation(Recipe):
    """VL-LTR under a changed configuration."""

    def __init__(
        self, title: str, made: Callable[[Config], Config], result: str = "lgr"
    ) -> None:
        """Names it and its change."""
        self.title, self.made, self.result = title, made, result

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


ABLATIONS: dict[str, Recipe] = {
    "no_pretraining": Ablation("without pre-training", _set(pretrain={"epochs": 0})),
    "no_clip": Ablation("without CLIP weights and distillation", _without_clip),
    "no_distillation": Ablation("without distillation", _distilled("none")),
    "distillation_diagonal": Ablation(
        "distillation by the paper's formula", _distilled("diagonal")
    ),
    "distillation_kl": Ablation("distillation by KL", _distilled("kl")),
    "fc": Ablation("FC head", _set(finetune={"head": "fc"}), "fc"),
    "knn": Ablation("kNN head", _set(evaluate={"knn": True}), "knn"),
    "cutoff": Ablation("cut-off selection", _set(anchors={"selection": "cutoff"})),
    "random": Ablation("random selection", _set(anchors={"selection": "random"})),
}
