r"""Your own pictures: list files, a label file and a text for each class.

python -m vl_ltr_jax.main --config=configs/image_list.py --workdir=DIR \
    --config.data.root=ROOT --config.data.name=NAME

ROOT holds NAME_{train,val,test}.txt with rows `relative/path.jpg label`, labels.txt
with rows `class name label`, and wiki/desc_N.txt with the text of class N. Pictures are
turned as their EXIF orientation says (`data.orientation`). As it stands
it runs the shipped tiny CLIP at 64 pixels, which a CPU can train; for a real model set
`--config.model.backbone=ViT-B/16 --config.model.image_size=224` and
`--config.init.clip=DIR` with a Hugging Face CLIP directory.
`--config=configs/image_list.py:scratch=yes` trains the same small towers from scratch.
"""

from ml_collections import ConfigDict

from vl_ltr_jax.config import arguments, default_config
from vl_ltr_jax.systems import NAMES


def get_config(arg: str = "") -> ConfigDict:
    """The configuration; `arg` may be `scratch=yes` (no CLIP weights), `method=crt`."""
    chosen = arguments(arg, scratch=("no", "yes"), method=NAMES)
    scratch = chosen["scratch"] == "yes"

    config = default_config()
    config.method = chosen["method"]
    config.data.source = "image_list"
    config.data.layout = "plain"
    config.data.prompts = "plain"
    config.data.train_recipe = "plain"
    config.model.backbone = "ViT-tiny"
    config.model.image_size = 64
    config.init.clip = "" if scratch else "tiny_clip"
    config.init.tokenizer = "tiny_clip" if scratch else ""  # else that of init.clip

    config.pretrain.epochs = 10
    config.pretrain.global_batch_size = 128
    config.pretrain.learning_rate = 5e-4
    config.pretrain.warmup_epochs = 2
    config.pretrain.schedule = "step"
    config.pretrain.distillation = "none" if scratch else "full"

    config.anchors.num_anchors = 16

    config.finetune.epochs = 10
    config.finetune.global_batch_size = 128
    config.finetune.learning_rate = 1e-3
    config.finetune.text_learning_rate = 1e-4
    config.finetune.schedule = "step"
    config.finetune.mixup_alpha = 0.0
    config.finetune.cutmix_alpha = 0.0

    config.classifier.feature_views = 4
    config.classifier.global_batch_size = 128
    config.classifier.schedule = "step"

    config.evaluate.batch_size = 256
    config.evaluate.zero_shot_text = "sentences"
    return config
