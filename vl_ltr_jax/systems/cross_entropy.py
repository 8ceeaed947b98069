"""The paper's Baseline: CLIP's image tower and a linear head, by cross entropy.

Images are drawn uniformly, as the decoupled systems that start from it need (Kang et
al., 2020). It sees as many images as both stages of VL-LTR together. Batch, rate and
warm-up are those of VL-LTR's pre-training, for the tower and for the new head. The
paper gives neither sampler nor rates of its Baseline: these are our choices.
"""

from collections.abc import Mapping
from typing import Any

from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.systems.recipe import Recipe

# Losses for images of one class each need these.
HARD_LABELS = {
    "finetune.mixup_alpha": 0.0,
    "finetune.cutmix_alpha": 0.0,
    "finetune.label_smoothing": 0.0,
}


class Baseline(Recipe):
    """One stage of cross entropy; systems with another loss derive from it."""

    name = "baseline"
    title = "Baseline (cross entropy)"
    result = "fc"
    needs: Mapping[str, Any] = {"pretrain.epochs": 0, "finetune.head": "fc"}

    def defaults(self, config: Config) -> Mapping[str, Any]:
        """Returns the training of image tower and FC head, and no other head."""
        # Without pre-training, like the fine-tuning.
        model = config.pretrain if config.pretrain.epochs else config.finetune
        return {
            "finetune.train_image_tower": True,
            "finetune.feature_views": 0,
            "finetune.sampling": "uniform",
            "finetune.epochs": config.pretrain.epochs + config.finetune.epochs,
            "finetune.global_batch_size": model.global_batch_size,
            "finetune.learning_rate": model.learning_rate,
            "finetune.min_learning_rate": model.min_learning_rate,
            "finetune.warmup_epochs": model.warmup_epochs,
            "evaluate.knn": False,
            "evaluate.zero_shot": False,
        }

    def faults(self, config: Config) -> list[str]:
        """Returns one message for each key under which nothing would train."""
        faults = super().faults(config)
        if not config.finetune.epochs:
            faults.append(
                f"finetune.epochs=0: method={self.name!r} would train nothing."
            )
        return faults
