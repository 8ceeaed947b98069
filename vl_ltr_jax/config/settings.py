"""Keys of a configuration as frozen dataclasses: types, choices, bounds and defaults.

A field is all there is to a key. Its default is the recipe of VL-LTR (ViT-B/16); its
annotation holds type, choices, bounds and `NEUTRAL`.
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin


class Bounds(NamedTuple):
    """Least and most of a number, both allowed."""

    least: float = -math.inf
    most: float = math.inf


class Key(NamedTuple):
    """One key, as its field declares it.

    Attributes:
      kind: type of its values.
      choices: allowed values; empty if any value within the bounds is allowed.
      neutral: True if no result depends on it.
    """

    kind: type
    choices: tuple[str, ...]
    bounds: Bounds
    neutral: bool


# Marks a key, or a section, that changes the speed of a run or when it stops, and
# not its result.
NEUTRAL = "neutral"

Share = Annotated[float, Bounds(0, 1)]
NotNegative = Annotated[float, Bounds(0)]
# At 1 the effective number of samples is 0 / 0.
Beta = Annotated[float, Bounds(0, 0.999999999)]
Positive = Annotated[float, Bounds(1e-6)]
Epochs = Annotated[int, Bounds(0)]
Count = Annotated[int, Bounds(1)]
Size = Annotated[int, Bounds(1, 1_000_000)]  # each takes memory
Workers = Annotated[int, Bounds(0, 1000), NEUTRAL]
Views = Annotated[int, Bounds(0, 100)]  # each is an open file
Sampling = Literal["uniform", "sqrt", "class_balanced", "class_aware"]


@dataclasses.dataclass(frozen=True)
class Data:
    """Images and texts: their places and their preparation."""

    source: Literal["shapes", "image_list", "inat18", "image_folder", "tfds"] = (
        "image_list"
    )
    name: str = ""  # list files are ROOT/NAME_{train,val,test}.txt; tfds: the builder
    root: str = ""  # tfds: its data_dir
    layout: Literal["plain", "imagenet_lt", "places_lt", "inat18"] = "plain"
    train_list: str = ""  # file names under root; empty: from the name
    val_list: str = ""
    test_list: str = ""
    texts: Literal["wiki", "none"] = "wiki"  # none: prompts only
    text_root: str = ""  # directory that holds wiki/; empty: root
    text_encoding: str = "auto"  # UTF-8, else GBK; or a codec of Python
    prompts: Literal["imagenet80", "plain", "none"] = "imagenet80"
    corpus_rule: Literal["mended", "vl_ltr"] = "mended"
    context_length: Annotated[int, Bounds(3)] = 77  # tokens, start and end included
    orientation: Literal["exif", "stored"] = "exif"  # turned as viewers show it, or not
    train_recipe: Literal["rand_augment", "plain", "gentle", "none"] = "rand_augment"
    crop_min_area: Share = 0.0  # smallest share a crop keeps; 0: the recipe's
    flip_probability: Share = 0.5
    rand_augment_operations: Annotated[int, Bounds(0, 100)] = 2  # drawn for each image
    rand_augment_magnitude: Annotated[float, Bounds(0, 10)] = 9.0  # of 10
    rand_augment_magnitude_std: NotNegative = 0.5
    rand_augment_probability: Share = 0.5  # of each drawn operation
    colour_jitter: Share = 0.4  # of the plain recipe
    eval_recipe: Literal["vl_ltr", "clip"] = "vl_ltr"
    # Pixels: as the model; as OpenAI, in full or as VL-LTR rounds it; as ImageNet.
    normalization: Literal["model", "clip", "clip_4digit", "imagenet"] = "model"
    erase_probability: Share = 0.25
    num_threads: Workers = 0  # read and augment; 0: one for each core
    num_workers: Workers = 0  # processes instead of threads; 0: threads
    bad_image_limit: Annotated[Share, NEUTRAL] = 0.001  # share of unreadable images
    cache: Annotated[str, NEUTRAL] = "default"  # directory of token ids; '': no cache


@dataclasses.dataclass(frozen=True)
class Model:
    """The two towers."""

    backbone: str = "ViT-B/16"  # a name in models.clip.PRESETS
    image_size: Annotated[int, Bounds(1, 8192)] = 224
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: by device
    remat: Annotated[Literal["none", "full", "dots", "dots_no_batch"], NEUTRAL] = "none"


@dataclasses.dataclass(frozen=True)
class Init:
    """Sources of the weights and the vocabulary."""

    clip: str = ""  # directory, file or hub id; 'tiny_clip': shipped; '': random
    # Of the MLPs; 'auto': from the files of the weights, or as the backbone's.
    activation: Literal["auto", "quick_gelu", "gelu"] = "auto"
    head_width: Annotated[int, Bounds(0, 8192)] = 0  # 0: from the files of weights
    tokenizer: str = ""  # directory or hub id with tokenizer files; '': as `clip`
    vl_ltr: str = ""  # the authors' CVLP or LGR checkpoint: evaluated, nothing trained


@dataclasses.dataclass(frozen=True)
class Training:
    """Keys of every training stage; each stage has its own defaults."""

    epochs: Epochs = 50
    global_batch_size: Size = 1024
    learning_rate: NotNegative = 1e-3
    min_learning_rate: NotNegative = 0.0
    warmup_learning_rate: NotNegative = 1e-6
    warmup_epochs: Epochs = 0
    schedule: Literal["epoch", "step"] = "epoch"
    weight_decay: NotNegative = 0.05
    sampling: Sampling = "sqrt"
    label_smoothing: Annotated[float, Bounds(0, 0.999)] = 0.1


@dataclasses.dataclass(frozen=True)
class Pretrain(Training):
    """Class-wise contrastive pre-training; 0 epochs leave the towers as they are."""

    learning_rate: NotNegative = 3.5e-5
    warmup_epochs: Epochs = 5
    contrastive_reduction: Literal["mean", "sum"] = "mean"
    distillation: Literal["full", "diagonal", "kl", "none"] = "full"
    distillation_weight: Share = 0.5  # 1 - lambda
    distillation_temperature: Positive = 1.0
    train_batch_norm: bool = False
    loss_form: Annotated[Literal["auto", "rows", "streaming"], NEUTRAL] = "auto"
    max_logit_scale: NotNegative = 100.0  # after a step; 0: no limit, as VL-LTR


@dataclasses.dataclass(frozen=True)
class Anchors:
    """Anchor sentence selection."""

    selection: Literal["anss", "cutoff", "random"] = "anss"
    num_anchors: Size = 64
    images: Literal["train", "val"] = "val"  # labelled images that score sentences
    max_images_per_class: Count = 50


@dataclasses.dataclass(frozen=True)
class Finetune(Training):
    """The recognition head; 0 epochs leave it out."""

    head: Literal["lgr", "fc"] = "lgr"  # language-guided, or a linear layer
    learning_rate: NotNegative = 1e-3  # with LGR: of parameters whose path has `visual`
    text_learning_rate: NotNegative = 1e-6  # of LGR's other parameters, its attention
    mixup_alpha: NotNegative = 0.8
    cutmix_alpha: NotNegative = 1.0
    train_image_tower: bool = False
    detach_norm: bool = False  # the attended text's length has no gradient
    feature_views: Views = 0  # cached views of an image; 0: a new view each time


@dataclasses.dataclass(frozen=True)
class Rebalance:
    """Losses that know the training counts, of systems other than VL-LTR."""

    class_balanced_beta: Beta = 0.999  # CB-Focal
    focal_gamma: NotNegative = 0.5
    ldam_max_margin: Share = 0.5  # of the rarest class
    ldam_scale: Annotated[float, Bounds(1e-6, 1e4)] = 30.0
    deferred_beta: Beta = 0.9999  # weights of LDAM's last steps
    deferred_share: Share = 0.2  # share of these steps in the training
    logit_adjustment_tau: Annotated[float, Bounds(0, 100)] = 1.0


@dataclasses.dataclass(frozen=True)
class Classifier(Training):
    """The second stage of cRT and LWS, on the features of the first."""

    epochs: Epochs = 10  # Kang et al.: 10 on ImageNet-LT and Places-LT
    # LWS trains a factor for each class alone. Its configuration takes `epochs` and
    # `learning_rate` from these two, and has 0 here.
    scale_epochs: Epochs = 5  # Kang et al.: 5 on all three benchmarks
    scale_learning_rate: NotNegative = 2e-2
    sampling: Sampling = "class_aware"
    label_smoothing: Annotated[float, Bounds(0, 0.999)] = 0.0
    feature_views: Views = 0  # cached views of an image; 0: a new view each time


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Measurements on the validation and test images."""

    batch_size: Size = 1024
    knn: bool = True
    knn_neighbours: Size = 5
    zero_shot: bool = True
    zero_shot_text: Literal["prompt", "prompts", "sentences", "anchors"] = "prompts"
    prediction: Literal["mixture", "sum"] = "mixture"  # of LGR's two branches
    visual_weight: Share = 0.2  # alpha of the mixture


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices, and the layout of a training step on them."""

    data: int = -1  # devices along each axis; -1: all that `model` leaves
    model: Epochs = 0  # 0: 16 on a TPU slice of more, if 16 divides it, else 1
    # auto: model for groups of 16 on a larger TPU slice, else none
    fsdp: Literal["auto", "none", "data", "model"] = "auto"  # parameters split over it
    accumulation_steps: Epochs = 0  # chunks of a global batch; 0: the fewest that fit
    compilation_cache: str = "workdir"  # or a directory or bucket; '': no cache


@dataclasses.dataclass(frozen=True)
class Log:
    """Progress and checkpoints."""

    every_steps: Count = 20
    checkpoint_every_steps: Count = 500
    keep_checkpoints: Count = 2
    # Between progress lines where standard error is no terminal.
    progress_seconds: NotNegative = 30.0
    profile_steps: Epochs = 0  # steps of each training stage to profile for TensorBoard


@dataclasses.dataclass(frozen=True)
class Faults:
    """Reactions to faults; unreadable images have a limit in `data`."""

    non_finite: Literal["stop", "skip"] = "stop"  # a step's loss or gradient
    max_skipped_steps: Count = 10  # of a training stage; the next one stops it
    max_failed_saves: Epochs = 0  # in a row; then training stops; 0: no limit


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything a run needs."""

    method: str = "vl_ltr"  # a name in `methods.REGISTRY`
    data: Data = Data()
    model: Model = Model()
    init: Init = Init()
    pretrain: Pretrain = Pretrain()
    anchors: Anchors = Anchors()
    finetune: Finetune = Finetune()
    rebalance: Rebalance = Rebalance()
    classifier: Classifier = Classifier()
    evaluate: Evaluate = Evaluate()
    mesh: Annotated[Mesh, NEUTRAL] = Mesh()
    log: Annotated[Log, NEUTRAL] = Log()
    faults: Annotated[Faults, NEUTRAL] = Faults()
    seed: Annotated[int, Bounds(0)] = 0


SECTIONS: dict[str, Any] = {
    field.name: type(field.default)
    for field in dataclasses.fields(Config)
    if dataclasses.is_dataclass(field.default)
}


def _keys(section: Any, prefix: str = "", *, neutral: bool = False) -> Iterator[Any]:
    for field in dataclasses.fields(section):
        kind: Any = field.type
        annotated = get_origin(kind) is Annotated
        kind, *marks = get_args(kind) if annotated else (kind,)
        own = neutral or NEUTRAL in marks
        if dataclasses.is_dataclass(kind):
            yield from _keys(kind, f"{field.name}.", neutral=own)
            continue
        bounds = next((mark for mark in marks if isinstance(mark, Bounds)), Bounds())
        choices = get_args(kind) if get_origin(kind) is Literal else ()
        key = Key(str if choices else kind, choices, bounds, own)
        yield prefix + field.name, key


KEYS: dict[str, Key] = dict(_keys(Config))


def to_json(config: Config) -> str:
    """Returns the configuration as indented JSON."""
    return json.dumps(dataclasses.asdict(config), indent=2)


def flatten(config: Config) -> dict[str, Any]:
    """Returns the configuration as `section.key` -> value."""
    flat: dict[str, Any] = {}
    for name, value in dataclasses.asdict(config).items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    return flat


def from_flat(flat: Mapping[str, Any]) -> Config:
    """Returns the configuration that :func:`flatten` turns into these values."""
    values = {key: value for key, value in flat.items() if "." not in key}
    for name, section in SECTIONS.items():
        fields = dataclasses.fields(section)
        inner = {field.name: flat[f"{name}.{field.name}"] for field in fields}
        values[name] = section(**inner)
    return Config(**values)


def changed(config: Config, changes: Mapping[str, Any]) -> Config:
    """Returns the configuration with other values, by `section.key`."""
    return from_flat({**flatten(config), **changes})
