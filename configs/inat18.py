"""iNaturalist 2018 with the authors' hyper-parameters.

python -m vl_ltr_jax.main --config=configs/inat18.py --workdir=DIR

The data directory holds train2018.json, val2018.json, categories.json,
wiki/desc_N.txt and the images; `--config=configs/inat18.py:backbone=RN50` takes the
other backbone, `:image_size=384` the larger pictures of the paper's best row. For these
the authors published no hyper-parameters: both stages run at 384 pixels with those of
224, and whether theirs were both is not known to us. `:method=crt` is another system.
"""

from ml_collections import ConfigDict

from vl_ltr_jax.config import arguments, default_config
from vl_ltr_jax.systems import NAMES

CLIP = {
    "ViT-B/16": "openai/clip-vit-base-patch16",
    "ViT-B/32": "openai/clip-vit-base-patch32",
    "RN50": "timm/resnet50_clip.openai",
}


def get_config(arg: str = "") -> ConfigDict:
    """The configuration; `arg` may be, say, `backbone=RN50,method=crt`."""
    chosen = arguments(
        arg, backbone=tuple(CLIP), image_size=("224", "384"), method=NAMES
    )
    vit = chosen["backbone"] != "RN50"

    config = default_config()
    config.method = chosen["method"]
    config.data.source = "inat18"
    config.data.name = "iNaturalist 2018"
    config.data.root = "data/iNat"
    config.data.layout = "inat18"
    config.data.orientation = "stored"  # as the authors' loader
    config.data.normalization = "clip_4digit"  # as the authors round CLIP's
    config.model.backbone = chosen["backbone"]
    config.model.image_size = int(chosen["image_size"])
    config.init.clip = CLIP[chosen["backbone"]]

    config.pretrain.epochs = 100
    config.pretrain.warmup_epochs = 5
    # The authors' 128 (ViT) or 256 (RN50) images for each of eight devices.
    config.pretrain.global_batch_size = 1024 if vit else 2048
    config.pretrain.learning_rate = 3.5e-4 if vit else 5e-4
    config.pretrain.min_learning_rate = 1e-5
    config.pretrain.train_batch_norm = True

    config.anchors.images = "train"

    config.finetune.epochs = 360
    config.finetune.global_batch_size = 1024
    config.finetune.learning_rate = 2e-5
    config.finetune.text_learning_rate = 1e-6
    config.finetune.train_image_tower = True
    config.finetune.detach_norm = True

    config.classifier.epochs = 30  # of cRT, as Kang et al. have it

    config.evaluate.visual_weight = 0.7
    return config
