"""Everything a run can be told, as frozen dataclasses.

These are the only list of what can be set: fields are the keys, annotations the allowed
types and choices, defaults the recipe of VL-LTR (ViT-B/16).
"""

import dataclasses
import json
from typing import Any, Literal

Sampling = Literal["uniform", "sqrt", "class_balanced", "class_aware"]
# The systems of the paper's tables that run here, and VL-LTR's ablations, see
# systems/.
Method = Literal[
    "vl_ltr",
    "zero_shot_prompt",
    "zero_shot_ensemble",
    "zero_shot_texts",
    "baseline",
    "ncm",
    "crt",
    "tau_normalized",
    "lws",
    "cb_focal",
    "ldam_drw",
    "balanced_softmax",
    "logit_adjustment",
    "logit_adjustment_post_hoc",
    "no_pretraining",
    "no_clip",
    "no_distillation",
    "distillation_diagonal",
    "distillation_kl",
    "fc",
    "knn",
    "cutoff",
    "random",
]


@dataclasses.dataclass(frozen=True)
class Data:
    """Images and texts: where they are and how they are prepared."""

    source: Literal["shapes", "image_list", "inat18", "image_folder", "tfds"] = (
        "image_list"
    )
    name: str = ""  # list files are ROOT/NAME_{train,val,test}.txt; tfds: the builder
    root: str = ""  # tfds: its data_dir
    layout: Literal["plain", "imagenet_lt", "places_lt", "inat18"] = "plain"
    train_list: str = ""  # file names under root; empty: from the name
    val_list: str = ""
    test_list: str = ""
    texts: Literal["wiki", "none"] = "wiki"  # 'none': prompts are all a class has
    text_root: str = ""  # directory that holds wiki/; empty: root
    text_encoding: str = "auto"  # UTF-8, else GBK; or a codec of Python
    prompts: Literal["imagenet80", "plain", "none"] = "imagenet80"
    corpus_rule: Literal["mended", "vl_ltr"] = "mended"
    context_length: int = 77  # tokens, start and end included
    orientation: Literal["exif", "stored"] = "exif"  # turned as viewers show it, or not
    train_recipe: Literal["rand_augment", "plain", "gentle", "none"] = "rand_augment"
    crop_min_area: float = 0.0  # smallest share a crop keeps; 0: the recipe's
    flip_probability: float = 0.5
    rand_augment_operations: int = 2  # drawn for each image
    rand_augment_magnitude: float = 9.0  # of 10
    rand_augment_magnitude_std: float = 0.5
    rand_augment_probability: float = 0.5  # that a drawn operation is applied
    colour_jitter: float = 0.4  # of the plain recipe
    eval_recipe: Literal["vl_ltr", "clip"] = "vl_ltr"
    # Of pixels: the model's own; OpenAI's, in full or as VL-LTR rounds it; ImageNet's.
    normalization: Literal["model", "clip", "clip_4digit", "imagenet"] = "model"
    erase_probability: float = 0.25
    num_threads: int = 0  # that read and augment; 0: one for each core
    num_workers: int = 0  # processes that do so instead; 0: none
    bad_image_limit: float = 0.001  # share of training images that may be unreadable
    cache: str = "default"  # directory of token ids; '': none


@dataclasses.dataclass(frozen=True)
class Model:
    """The two towers."""

    backbone: str = "ViT-B/16"  # a name in models.clip.PRESETS
    image_size: int = 224
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Literal["none", "full", "dots", "dots_no_batch"] = "none"


@dataclasses.dataclass(frozen=True)
class Init:
    """Where the weights and the vocabulary come from."""

    clip: str = ""  # directory, file or hub id; 'tiny_clip': shipped; '': random
    # Of the MLPs; 'auto': as the files beside the weights say, or as the backbone's.
    activation: Literal["auto", "quick_gelu", "gelu"] = "auto"
    head_width: int = 0  # of the image tower; 0: as the files beside the weights say
    tokenizer: str = ""  # directory or hub id with tokenizer files; '': as `clip`
    vl_ltr: str = ""  # the authors' CVLP or LGR checkpoint: evaluated, nothing trained


@dataclasses.dataclass(frozen=True)
class Training:
    """What every training stage is told; each has defaults of its own."""

    epochs: int = 50
    global_batch_size: int = 1024
    learning_rate: float = 1e-3
    min_learning_rate: float = 0.0
    warmup_learning_rate: float = 1e-6
    warmup_epochs: int = 0
    schedule: Literal["epoch", "step"] = "epoch"
    weight_decay: float = 0.05
    sampling: Sampling = "sqrt"
    label_smoothing: float = 0.1


@dataclasses.dataclass(frozen=True)
class Pretrain(Training):
    """Class-wise contrastive pre-training; 0 epochs leave the towers as they are."""

    learning_rate: float = 3.5e-5
    warmup_epochs: int = 5
    contrastive_reduction: Literal["mean", "sum"] = "mean"
    distillation: Literal["full", "diagonal", "kl", "none"] = "full"
    distillation_weight: float = 0.5  # 1 - lambda
    distillation_temperature: float = 1.0
    train_batch_norm: bool = False
    loss_form: Literal["auto", "rows", "streaming"] = "auto"
    max_logit_scale: float = 100.0  # after each step, as CLIP's; 0: none, as VL-LTR's


@dataclasses.dataclass(frozen=True)
class Anchors:
    """Anchor sentence selection."""

    selection: Literal["anss", "cutoff", "random"] = "anss"
    num_anchors: int = 64
    images: Literal["train", "val"] = "val"
    max_images_per_class: int = 50


@dataclasses.dataclass(frozen=True)
class Finetune(Training):
    """The recognition head; 0 epochs leave it out."""

    head: Literal["lgr", "fc"] = "lgr"
    text_learning_rate: float = 1e-6
    mixup_alpha: float = 0.8
    cutmix_alpha: float = 1.0
    train_image_tower: bool = False
    detach_norm: bool = False
    feature_views: int = 0  # views of each image embedded once; 0: a new one each time


@dataclasses.dataclass(frozen=True)
class Rebalance:
    """Losses that know the training counts; VL-LTR has none of them."""

    class_balanced_beta: float = 0.999  # CB-Focal
    focal_gamma: float = 0.5
    ldam_max_margin: float = 0.5  # of the rarest class
    ldam_scale: float = 30.0
    deferred_beta: float = 0.9999  # weights of LDAM's last steps
    deferred_share: float = 0.2  # how much of the training these are
    logit_adjustment_tau: float = 1.0


@dataclasses.dataclass(frozen=True)
class Classifier(Training):
    """The second stage of cRT and LWS, on the features of the first."""

    epochs: int = 10  # Kang et al.: 10 on ImageNet-LT and Places-LT
    # LWS trains a factor for each class alone. Its configuration takes `epochs` and
    # `learning_rate` from these two, and has 0 here.
    scale_epochs: int = 5  # Kang et al.: 5 on all three benchmarks
    scale_learning_rate: float = 2e-2
    sampling: Sampling = "class_aware"
    label_smoothing: float = 0.0
    feature_views: int = 0  # views of each image embedded once; 0: a new one each time


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """What is measured on the validation and test images."""

    batch_size: int = 1024
    knn: bool = True
    knn_neighbours: int = 5
    zero_shot: bool = True
    zero_shot_text: Literal["prompt", "prompts", "sentences", "anchors"] = "prompts"
    prediction: Literal["mixture", "sum"] = "mixture"
    visual_weight: float = 0.2  # alpha of the mixture


@dataclasses.dataclass(frozen=True)
class Mesh:
    """The devices, and how a training step is laid out on them."""

    data: int = -1  # devices along each axis; -1: all that are left
    model: int = 1
    fsdp: Literal["none", "data", "model"] = "none"  # axis that parameters split over
    accumulation_steps: int = 1  # chunks of a global batch too large for the devices
    compilation_cache: str = "workdir"  # or a directory or bucket; '': none


@dataclasses.dataclass(frozen=True)
class Log:
    """Watching and saving."""

    every_steps: int = 20
    checkpoint_every_steps: int = 500
    keep_checkpoints: int = 2
    # Between a training stage's progress lines, where no terminal has one in place.
    progress_seconds: float = 30.0
    profile_steps: int = 0  # steps of each training stage to profile for TensorBoard


@dataclasses.dataclass(frozen=True)
class Faults:
    """What a run does when something goes wrong; images have a limit in `data`."""

    non_finite: Literal["stop", "skip"] = "stop"  # a step's loss or gradient
    max_skipped_steps: int = 10  # of a training stage; the next one stops it
    max_failed_saves: int = 0  # in a row, with which training stops; 0: it tries on


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything a run needs."""

    method: Method = "vl_ltr"
    data: Data = Data()
    model: Model = Model()
    init: Init = Init()
    pretrain: Pretrain = Pretrain()
    anchors: Anchors = Anchors()
    finetune: Finetune = Finetune()
    rebalance: Rebalance = Rebalance()
    classifier: Classifier = Classifier()
    evaluate: Evaluate = Evaluate()
    mesh: Mesh = Mesh()
    log: Log = Log()
    faults: Faults = Faults()
    seed: int = 0


def to_json(config: Config) -> str:
    """The resolved configuration as indented JSON."""
    return json.dumps(dataclasses.asdict(config), indent=2)


def flatten(config: Config) -> dict[str, Any]:
    """The configuration as `section.key` -> value."""
    flat: dict[str, Any] = {}
    for name, value in dataclasses.asdict(config).items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    return flat
