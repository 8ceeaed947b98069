"""Our configurations of the paper's data sets against the authors' twelve.

`effective.json` holds the arguments that the official code runs each of its shipped
configurations with, defaults included. One file of ours stands for four of them: two
backbones, and both stages.
"""

import dataclasses
import inspect
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import pytest

from vl_ltr_jax import systems
from vl_ltr_jax.config import build as configs
from vl_ltr_jax.config import settings
from vl_ltr_jax.method import mixup
from vl_ltr_jax.train import stage as training
from worlds.paper_world import ROOT, get_config_of, resolved

EFFECTIVE: dict[str, dict[str, Any]] = json.loads(
    (ROOT / "tests" / "golden" / "configs" / "effective.json").read_text()
)
FILES = {"imagelt": "imagenet_lt", "placeslt": "places_lt", "inat": "inat18"}
BACKBONES = {"r50": "RN50", "vit16": "ViT-B/16"}
STAGES = ("pretrain", "finetune")
DEVICES = 8  # in the commands of the authors' README


class Case(NamedTuple):
    """One of their files, and what stands for it here."""

    stem: str
    stage: str
    config: settings.Config

    @property
    def options(self) -> Any:
        return getattr(self.config, self.stage)


class Ours(str):
    """A key of ours; STAGE is that of the file."""


class ByStage(NamedTuple):
    """What differs between the stages."""

    pretrain: Any
    finetune: Any


def expected(cell: Any, case: Case) -> Any:
    """The value that their argument must have."""
    if isinstance(cell, ByStage):
        return expected(getattr(cell, case.stage), case)
    if isinstance(cell, Ours):
        return settings.flatten(case.config)[cell.replace("STAGE", case.stage)]
    return cell(case) if callable(cell) else cell


def one_of(names: dict[Any, str], *keys: str) -> Callable[[Case], str]:
    """Their name for values of ours."""

    def name(case: Case) -> str:
        values = tuple(expected(Ours(key), case) for key in keys)
        return names.get(values, f"no name of theirs for {values}")

    return name


def model_name(case: Case) -> str:
    name = {"pretrain": "CVLP", "finetune": "LGR"}[case.stage]
    name += {"RN50": "_r50", "ViT-B/16": "_vit16"}[case.config.model.backbone]
    if case.stage == "finetune":
        name += "_v_detach" * case.options.detach_norm
        name += "_img_grad" * case.options.train_image_tower
    return name


def augmentation(case: Case) -> str:
    """RandAugment's description in timm; two operations at one half go unsaid."""
    data = case.config.data
    if data.train_recipe != "rand_augment":
        return ""
    name = f"rand-m{data.rand_augment_magnitude:g}"
    if data.rand_augment_operations != 2:
        name += f"-n{data.rand_augment_operations}"
    if data.rand_augment_probability != 0.5:
        name += f"-p{data.rand_augment_probability}"
    return f"{name}-mstd{data.rand_augment_magnitude_std:g}-inc1"


def drops_the_remainder(case: Case) -> bool:
    draws = 2 * case.options.global_batch_size - 1
    return (
        training.Plan.from_section(case.options, draws).num_steps == case.options.epochs
    )


# The same fact in their words and in ours.
COMPARED: dict[str, Any] = {
    # data
    # Their data set also decides the weight of the visual branch in evaluation.
    "data_set": one_of(
        {
            ("image_list", "ImageNet_LT", "imagenet_lt", 0.2): "IMNET_LT",
            ("image_list", "Places_LT", "places_lt", 0.2): "PLACES_LT",
            ("inat18", "iNaturalist 2018", "inat18", 0.7): "INAT",
        },
        *("data.source", "data.name", "data.layout", "evaluate.visual_weight"),
    ),
    "desc_path": lambda case: os.path.relpath(case.config.data.root),  # made absolute
    "context_length": lambda case: case.config.data.context_length - 2,  # start and end
    "input_size": Ours("model.image_size"),
    "aa": augmentation,
    "reprob": Ours("data.erase_probability"),
    "clip_ms": lambda case: case.config.data.normalization == "clip_4digit",
    "weight_sample": lambda case: case.options.sampling != "uniform",
    "use_sqrt_freq": lambda case: case.options.sampling == "sqrt",
    "drop_last": drops_the_remainder,
    # models
    "model": model_name,
    "pretrained_clip": one_of(
        {
            ("RN50", "timm/resnet50_clip.openai"): "pretrained/RN50.pt",
            ("ViT-B/16", "openai/clip-vit-base-patch16"): "pretrained/ViT-B-16.pt",
        },
        *("model.backbone", "init.clip"),
    ),
    "train_mode": ByStage(
        Ours("pretrain.train_batch_norm"),
        True,  # LGR's tower is in eval mode anyway
    ),
    "two_branch": ByStage(False, lambda case: case.options.head == "lgr"),
    "sent_length": Ours("anchors.num_anchors"),
    # With test images at hand, sentences are selected by the validation images.
    "test": lambda case: case.config.anchors.images == "val",
    # schedule
    "batch_size": lambda case: case.options.global_batch_size / DEVICES,
    "epochs": Ours("STAGE.epochs"),
    "sched": one_of({("epoch",): "cosine"}, "STAGE.schedule"),
    "lr": Ours("STAGE.learning_rate"),
    "text_lr": ByStage(0, Ours("finetune.text_learning_rate")),  # 0: the same as lr
    "min_lr": Ours("STAGE.min_learning_rate"),
    "warmup_lr": Ours("STAGE.warmup_learning_rate"),
    "warmup_epochs": Ours("STAGE.warmup_epochs"),
    "weight_decay": Ours("STAGE.weight_decay"),
    "seed": Ours("seed"),
    # losses
    "smoothing": Ours("STAGE.label_smoothing"),
    "base_criterion": ByStage(
        lambda case: f"LabelSmoothingCrossEntropy({case.options.label_smoothing})",
        lambda case: "SoftTarget" * (case.options.mixup_alpha > 0) + "CrossEntropy",
    ),
    "mixup": ByStage(0, Ours("finetune.mixup_alpha")),
    "cutmix": ByStage(0, Ours("finetune.cutmix_alpha")),
    "mixup_active": ByStage(
        False, lambda case: max(case.options.mixup_alpha, case.options.cutmix_alpha) > 0
    ),
    "mixup_switch_prob": lambda case: (
        inspect.signature(mixup.mix).parameters["switch_probability"].default
    ),
    "distillation_type": ByStage(
        one_of({("full",): "logits", ("kl",): "logits_kl"}, "pretrain.distillation"),
        "none",
    ),
    "distillation_beta": ByStage(Ours("pretrain.distillation_weight"), 0),
    "distillation_tau": ByStage(Ours("pretrain.distillation_temperature"), 1.0),
}

# Every other argument, with the value that lets it be left out.
NOT_COMPARED: dict[str, tuple[Any, str]] = {
    # hard-wired here
    "opt": ("adamw", "optim.py; test_optim.py compares it with torch's AdamW"),
    "opt_eps": (1e-8, "optim.py, as above"),
    "opt_betas": (None, "torch's 0.9 and 0.999: optim.py, as above"),
    "clip_grad": (None, "gradients are not clipped here either"),
    "train_interpolation": ("bicubic", "data/transforms.py knows no other"),
    "remode": ("pixel", "random_erase of data/transforms.py"),
    "recount": (1, "one rectangle an image, as in random_erase"),
    "mixup_mode": ("batch", "one weight for a batch, as in mixup.py"),
    "mixup_prob": (1.0, "every batch is mixed, as in mixup.py"),
    "cutmix_minmax": (None, "boxes follow cutmix's alpha, as in mixup.py"),
    "distillation_training_mode": (False, "the teacher is in eval mode, as in ours"),
    "teacher_model": (None, "the teacher is of the student's kind, as ours is"),
    "teacher_path": (None, "and has the weights of pretrained_clip"),
    # said by another argument
    "loss_type": (ByStage("smoothCE", "CE"), "base_criterion is what comes of it"),
    "pretrain_cvlp": (ByStage(True, False), "tells the stages apart"),
    "distillation_alpha": (0, "weight of a distillation of features; off"),
    "repeated_aug": (False, "another sampler, which would go before weight_sample"),
    "color_jitter": (0.4, "timm leaves it out where RandAugment is on"),
    # of other optimizers and schedules
    "momentum": (0.9, "of SGD"),
    "decay_epochs": (30, "of the step schedule"),
    "decay_rate": (0.1, "of the step schedule"),
    "patience_epochs": (10, "of the plateau schedule"),
    "cooldown_epochs": (10, "epochs past the last, which training never reaches"),
    "lr_noise": (None, "no noise on the rate"),
    "lr_noise_pct": (0.67, "of that noise"),
    "lr_noise_std": (1.0, "of that noise"),
    # files
    "output_dir": (lambda case: f"checkpoints/{case.stem}", "the workdir"),
    "resume": (
        lambda case: f"checkpoints/{case.stem}/checkpoint.pth",
        "a run resumes by its workdir",
    ),
    "pretrain_cvlp_path": (
        ByStage("", lambda c: f"checkpoints/{c.stem.replace(c.stage, 'pretrain')}/"),
        "the pretrain stage of the workdir",
    ),
    # accepted, and without effect
    "drop": (0.0, "reaches the models, which ignore it"),
    "drop_path": (0.1, "reaches the models, which ignore it"),
    "pretrained": (False, "reaches the models, which ignore it"),
    "img_grad": (True, "the model's name decides"),
    "cls_token_length": (1, "read by nothing"),
    "finetune": ("", "a path, read by nothing"),
    "txt_embed_path": (None, "a path, read by nothing"),
    "vis_backbone_path": (None, "a path, read by nothing"),
    "resplit": (False, "does not reach the transforms"),
    # running and evaluating
    "device": ("cuda", "hardware"),
    "fp32_resume": (False, "float16 autocast; here model.compute_dtype decides"),
    "start_epoch": (0, "set when resuming"),
    "debug": (False, "skips the training"),
    "eval": (False, "only evaluates"),
    "eval_pretrain": (ByStage(True, False), "zero-shot and kNN; evaluate.knn here"),
    "ensemble": (False, "zero-shot by class means; evaluate.zero_shot_text here"),
    "select": (False, "only scores sentences: a stage of its own here"),
    "test_p": (False, "accuracies of each class, which are always written here"),
    "dist_eval": (False, "evaluation on many devices"),
}

# What none of their arguments says: defaults within their code, and in timm's.
UNSAID = {
    "method": "vl_ltr",
    "data.crop_min_area": 0.0,  # the recipe's 8 %
    "data.flip_probability": 0.5,
    "data.eval_recipe": "vl_ltr",
    "data.prompts": "imagenet80",
    "data.texts": "wiki",
    "pretrain.contrastive_reduction": "mean",
    "anchors.selection": "anss",
    "anchors.max_images_per_class": 50,
    "finetune.head": "lgr",
    "finetune.feature_views": 0,
    "evaluate.prediction": "mixture",
    "evaluate.knn": True,
    "evaluate.knn_neighbours": 5,
}


def case_of(file: str) -> Case:
    data_set, stage, name = file.split("/")
    stem = name.removesuffix(".py")
    backbone = BACKBONES[stem.rpartition("_")[2]]
    return Case(stem, stage, resolved(FILES[data_set], backbone=backbone))


def test_all_twelve_are_there():
    found = {
        (data_set, stage, name.removesuffix(".py").rpartition("_")[2])
        for data_set, stage, name in (file.split("/") for file in EFFECTIVE)
    }
    assert len(EFFECTIVE) == 12
    assert found == set(itertools.product(FILES, STAGES, BACKBONES))
    assert not COMPARED.keys() & NOT_COMPARED.keys()


@pytest.mark.parametrize("file", EFFECTIVE)
def test_every_argument_of_the_authors_is_ours(file):
    """Breaks with any rate, batch size or epoch of configs/ changed, with a changed
    default of settings.py that a paper's recipe rests on, and with an argument of
    theirs that neither table has, or that a table has and they have not.
    """
    case, theirs = case_of(file), EFFECTIVE[file]
    cells = COMPARED | {name: cell for name, (cell, _) in NOT_COMPARED.items()}
    ours = {name: expected(cell, case) for name, cell in cells.items()}
    assert ours.keys() == theirs.keys()
    differing = {
        name: f"{value!r} here, {theirs[name]!r} in the authors' run"
        for name, value in ours.items()
        if value != theirs[name]
    }
    assert not differing


@pytest.mark.parametrize("backbone", BACKBONES.values())
@pytest.mark.parametrize("file", FILES.values())
def test_what_no_argument_says(file, backbone):
    ours = settings.flatten(resolved(file, backbone=backbone))
    assert {key: ours[key] for key in UNSAID} == UNSAID


@pytest.mark.parametrize("backbone", BACKBONES.values())
def test_larger_pictures_change_nothing_else(backbone):
    small, large = (
        settings.flatten(resolved("inat18", backbone=backbone, image_size=size))
        for size in ("224", "384")
    )
    assert small == large | {"model.image_size": 224}
    assert large["model.image_size"] == 384


@pytest.mark.parametrize("backbone", BACKBONES.values())
@pytest.mark.parametrize("file", FILES.values())
def test_every_method_builds_on_every_file(file, backbone, tmp_path):
    """All contradictions are looked for; only the images are not there."""
    made = {}
    for name in systems.NAMES:
        config = resolved(file, backbone=backbone, method=name)
        assert config.method == name
        made[name] = config
        there = dataclasses.replace(config.data, root=str(tmp_path))
        config = dataclasses.replace(config, data=there)
        configs.check(config)
        systems.check(config)
    assert made.keys() == set(get_args(settings.Method))
    assert made["vl_ltr"] == resolved(file, backbone=backbone)
    # The kNN head is measured with VL-LTR: its row is another line of the same run.
    alike = {
        name
        for name, config in made.items()
        if dataclasses.replace(config, method="vl_ltr") == made["vl_ltr"]
    }
    assert alike == {"vl_ltr", "knn"}


def test_main_shows_the_resolved_configuration():
    done = subprocess.run(
        [
            *(sys.executable, "-m", "vl_ltr_jax.main", "--show_config"),
            "--config=configs/inat18.py:backbone=RN50",
            "--config.pretrain.epochs=7",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    config_dict = get_config_of("inat18")("backbone=RN50")
    config_dict.pretrain.epochs = 7
    shown = settings.to_json(configs.resolve(config_dict))
    assert done.stdout == shown + "\n"
