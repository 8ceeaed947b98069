"""The embedded long-tailed world: nothing to download, minutes on two CPU cores.

python -m vl_ltr_jax.main --config=configs/shapes_lt.py --workdir=DIR
"""

from ml_collections import ConfigDict

from vl_ltr_jax.config import arguments, default_config
from vl_ltr_jax.systems import NAMES


def get_config(arg: str = "") -> ConfigDict:
    """The configuration; `arg` may be, say, `method=crt`."""
    method = arguments(arg, method=NAMES)["method"]
    config = default_config()
    config.method = method
    config.data.source = "shapes"
    config.data.name = "shapes_lt"
    config.data.prompts = "plain"
    config.data.context_length = 24  # the longest tenth of the sentences is cut
    config.data.train_recipe = "none"
    config.data.eval_recipe = "clip"
    config.data.normalization = "clip"
    config.data.erase_probability = 0.0
    config.model.backbone = "ViT-tiny"
    config.model.image_size = 32
    config.init.clip = "tiny_clip"

    config.pretrain.epochs = 6
    config.pretrain.global_batch_size = 128
    config.pretrain.learning_rate = 3e-4
    config.pretrain.warmup_epochs = 1
    config.pretrain.schedule = "step"

    config.anchors.num_anchors = 8

    config.finetune.epochs = 8
    config.finetune.global_batch_size = 128
    config.finetune.learning_rate = 1e-3
    config.finetune.text_learning_rate = 3e-3
    config.finetune.schedule = "step"
    config.finetune.mixup_alpha = 0.0
    config.finetune.cutmix_alpha = 0.0
    # Images are neither augmented nor erased: one view is all there is.
    config.finetune.feature_views = 1
    config.classifier.feature_views = 1

    config.classifier.scale_epochs = 20  # by the validation images
    config.classifier.global_batch_size = 128
    config.classifier.schedule = "step"

    config.evaluate.batch_size = 256
    config.evaluate.zero_shot_text = "sentences"
    config.evaluate.visual_weight = 0.5  # by the validation images

    config.log.every_steps = 10
    config.log.checkpoint_every_steps = 100
    return config
