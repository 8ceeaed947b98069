"""Places-LT with the authors' hyper-parameters.

python -m vl_ltr_jax.main --config=configs/places_lt.py --workdir=DIR

The data directory holds Places_LT_{train,val,test}.txt, labels.txt, wiki/desc_N.txt and
the images; `--config=configs/places_lt.py:backbone=RN50` takes the other backbone,
`:backbone=RN50,method=crt` another system of the paper's tables (see systems/).
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
    chosen = arguments(arg, backbone=tuple(CLIP), method=NAMES)
    vit = chosen["backbone"] != "RN50"

    config = default_config()
    config.method = chosen["method"]
    config.data.source = "image_list"
    config.data.root = "data/places"
    config.data.name = "Places_LT"
    config.data.layout = "places_lt"
    config.data.orientation = "stored"  # as the authors' loader
    config.data.normalization = "clip_4digit"  # as the authors round CLIP's
    config.model.backbone = chosen["backbone"]
    config.init.clip = CLIP[chosen["backbone"]]

    config.pretrain.epochs = 50
    config.pretrain.warmup_epochs = 5
    # The authors' 128 (ViT) or 256 (RN50) images for each of eight devices.
    config.pretrain.global_batch_size = 1024 if vit else 2048
    config.pretrain.learning_rate = 1e-5 if vit else 5e-5

    config.finetune.epochs = 50
    config.finetune.global_batch_size = 1024
    config.finetune.learning_rate = 5e-5 if vit else 1e-4
    config.finetune.text_learning_rate = 1e-6
    return config
