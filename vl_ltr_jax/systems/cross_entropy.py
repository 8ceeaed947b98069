"""The paper's Baseline: CLIP's image tower and a linear head, by cross entropy.

Images are drawn uniformly, as the decoupled systems that start from it want it (Kang et
al., 2020). It sees as many images as both stages of VL-LTR together, with the batch,
the rate and the warm-up of VL-LTR's pre-training, which tower and new head share. The
paper says of its Baseline neither sampler nor rates: these are our choices.
"""

from vl_ltr_jax.config.settings import Config, Method
from vl_ltr_jax.systems.recipe import Recipe, change


class Baseline(Recipe):
    """One stage of cross entropy; the systems that differ by their loss derive of it.

    Attributes:
      hard_labels: whether the loss needs every image to be of one class.
    """

    name: Method = "baseline"
    title = "Baseline (cross entropy)"
    result = "fc"
    hard_labels = False

    def configure(self, config: Config) -> Config:
        """Trains the image tower with an FC head, and evaluates that alone."""
        # Without a pre-training to be like, as the fine-tuning.
        like = config.pretrain if config.pretrain.epochs else config.finetune
        hard = {"mixup_alpha": 0.0, "cutmix_alpha": 0.0, "label_smoothing": 0.0}
        return change(
            super().configure(config),
            pretrain={"epochs": 0},
            finetune={
                "head": "fc",
                "train_image_tower": True,
                "feature_views": 0,
                "sampling": "uniform",
                "epochs": config.pretrain.epochs + config.finetune.epochs,
                "global_batch_size": like.global_batch_size,
                "learning_rate": like.learning_rate,
                "min_learning_rate": like.min_learning_rate,
                "warmup_epochs": like.warmup_epochs,
                **(hard if self.hard_labels else {}),
            },
            evaluate={"knn": False, "zero_shot": False},
        )

    def faults(self, config: Config) -> list[str]:
        """Another head, no training, or mixed labels where the loss cannot use them."""
        options, faults = config.finetune, []
        if options.head != "fc" or not options.epochs:
            faults.append(
                f"method={self.name!r} needs finetune.head='fc' and finetune.epochs; "
                f"given {options.head!r} and {options.epochs}"
            )
        if config.pretrain.epochs and not config.init.vl_ltr:
            faults.append(
                f"method={self.name!r} with pretrain.epochs={config.pretrain.epochs}: "
                "it has no pre-training with sentences; set that to 0, and its length "
                "with finetune.epochs"
            )
        mixed = {
            key: getattr(options, key)
            for key in ("mixup_alpha", "cutmix_alpha", "label_smoothing")
        }
        if self.hard_labels and any(mixed.values()):
            given = ", ".join(f"finetune.{key}={value}" for key, value in mixed.items())
            faults.append(
                f"method={self.name!r} with {given}: its loss needs the class of each "
                "image, not a mixture; set them to 0"
            )
        return faults
