r"""CIFAR-100-LT: small, and a benchmark of nearly every paper on long tails.

python -m vl_ltr_jax.data.tfds_builders cifar100 --data_dir=data/tensorflow_datasets
python -m vl_ltr_jax.main --config=configs/cifar100_lt.py --workdir=DIR

The first command downloads CIFAR-100. Its training images are thinned when they are
read, to an imbalance of 100, or by `--config=configs/cifar100_lt.py:imbalance=50` (or
10). There is no validation split, and the test images take its place: choose nothing by
validation accuracy. Anchors are selected by training images.

VL-LTR has no results on it: the hyper-parameters are a guess of ours, untried. Prompts
are all that a class has. For texts, make a label file, fetch them, and train with
`--config.data.texts=wiki --config.data.text_root=ROOT`:

awk '{print $0, NR-1}' data/tensorflow_datasets/cifar100/*/label.labels.txt \
    > ROOT/labels.txt
python -m vl_ltr_jax.data.fetch_text --root=ROOT
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
    """The configuration; `arg` may be such as `imbalance=50,backbone=RN50`."""
    chosen = arguments(
        arg, imbalance=("100", "50", "10"), backbone=tuple(CLIP), method=NAMES
    )

    config = default_config()
    config.method = chosen["method"]
    config.data.source = "tfds"
    config.data.root = "data/tensorflow_datasets"
    config.data.name = f"cifar100_lt/{chosen['imbalance']}"
    config.data.texts = "none"
    config.data.crop_min_area = 0.5  # less of 32 pixels shows nothing
    config.data.normalization = "clip_4digit"  # as the authors round CLIP's
    config.model.backbone = chosen["backbone"]
    config.model.image_size = 224  # what CLIP was trained on: pictures are enlarged
    config.init.clip = CLIP[chosen["backbone"]]

    config.pretrain.epochs = 20
    config.pretrain.warmup_epochs = 2
    config.pretrain.global_batch_size = 256  # of 10,847 images
    config.pretrain.learning_rate = 1e-5
    config.pretrain.schedule = "step"

    config.anchors.images = "train"

    config.finetune.epochs = 20
    config.finetune.global_batch_size = 256
    config.finetune.learning_rate = 5e-4
    config.finetune.text_learning_rate = 1e-6
    config.finetune.schedule = "step"

    config.classifier.global_batch_size = 256
    config.classifier.schedule = "step"
    return config
