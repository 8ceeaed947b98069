"""VL-LTR with one part changed: the switches of the paper's ablation, and ours."""

from collections.abc import Mapping
from typing import Any

from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.systems.recipe import Recipe


class Ablation(Recipe):
    """VL-LTR under a changed configuration."""

    finetuning = Recipe.name  # the configuration says all that differs

    def __init__(
        self, name: str, title: str, needs: Mapping[str, Any], result: str = "lgr"
    ) -> None:
        """Names it and its change."""
        self.name, self.title, self.needs, self.result = name, title, needs, result

    def head_names(self) -> dict[str, str]:
        """Returns VL-LTR's name with the change."""
        return {self.result: f"VL-LTR, {self.title}"}


class WithoutClip(Ablation):
    """VL-LTR from random towers, with the tokenizer of its CLIP."""

    def defaults(self, config: Config) -> Mapping[str, Any]:
        """Returns the key that keeps the tokenizer of the CLIP."""
        return {"init.tokenizer": config.init.tokenizer or config.init.clip}


_FORM = "pretrain.distillation"
ABLATIONS: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Ablation("no_pretraining", "without pre-training", {"pretrain.epochs": 0}),
        WithoutClip(
            "no_clip",
            "without CLIP weights and distillation",
            {"init.clip": "", _FORM: "none"},
        ),
        Ablation("no_distillation", "without distillation", {_FORM: "none"}),
        Ablation(
            "distillation_diagonal",
            "distillation by the paper's formula",
            {_FORM: "diagonal"},
        ),
        Ablation("distillation_kl", "distillation by KL", {_FORM: "kl"}),
        Ablation("fc", "FC head", {"finetune.head": "fc"}, "fc"),
        Ablation("knn", "kNN head", {"evaluate.knn": True}, "knn"),
        Ablation("cutoff", "cut-off selection", {"anchors.selection": "cutoff"}),
        Ablation("random", "random selection", {"anchors.selection": "random"}),
    )
}
