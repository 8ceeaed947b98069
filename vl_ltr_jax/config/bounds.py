"""What values may be, and which contradict each other."""

import math
import os
import re

from vl_ltr_jax.config.settings import Config, Data, Finetune, flatten
from vl_ltr_jax.data.text import files
from vl_ltr_jax.logs.messages import nearest, shortened
from vl_ltr_jax.models.clip import PRESETS
from vl_ltr_jax.models.port import hub
from vl_ltr_jax.runtime.errors import UserError

_LARGEST = 2**31 - 1  # steps, seeds and indices are 32-bit on devices
_MOST = 1_000_000  # of what takes memory for each
# Controls, and halves of characters: what Python makes of bytes that are not UTF-8.
_UNFIT = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_BELOW_ONE = 0.999999999  # at 1 the effective number of samples is 0 / 0
# A field outside these bounds is an error; None leaves a side open.
_BOUNDS: dict[str, tuple[float | None, float | None]] = {
    "data.context_length": (3, None),
    "data.erase_probability": (0, 1),
    "data.num_threads": (0, 1000),
    "data.num_workers": (0, 1000),
    "data.bad_image_limit": (0, 1),
    "data.crop_min_area": (0, 1),
    "data.flip_probability": (0, 1),
    "data.rand_augment_operations": (0, 100),
    "data.rand_augment_magnitude": (0, 10),
    "data.rand_augment_magnitude_std": (0, None),
    "data.rand_augment_probability": (0, 1),
    "data.colour_jitter": (0, 1),
    "model.image_size": (1, 8192),
    "init.head_width": (0, 8192),
    "anchors.num_anchors": (1, _MOST),
    "anchors.max_images_per_class": (1, None),
    "evaluate.batch_size": (1, _MOST),
    "evaluate.knn_neighbours": (1, _MOST),
    "evaluate.visual_weight": (0, 1),
    "pretrain.distillation_weight": (0, 1),
    "pretrain.distillation_temperature": (1e-6, None),
    "finetune.text_learning_rate": (0, None),
    "finetune.mixup_alpha": (0, None),
    "finetune.cutmix_alpha": (0, None),
    "finetune.feature_views": (0, 100),  # each is an open file
    "classifier.feature_views": (0, 100),
    "classifier.scale_epochs": (0, None),
    "classifier.scale_learning_rate": (0, None),
    "rebalance.class_balanced_beta": (0, _BELOW_ONE),
    "rebalance.focal_gamma": (0, None),
    "rebalance.ldam_max_margin": (0, 1),
    "rebalance.ldam_scale": (1e-6, 1e4),
    "rebalance.deferred_beta": (0, _BELOW_ONE),
    "rebalance.deferred_share": (0, 1),
    "rebalance.logit_adjustment_tau": (0, 100),
    "log.every_steps": (1, None),
    "log.checkpoint_every_steps": (1, None),
    "log.keep_checkpoints": (1, None),
    "log.progress_seconds": (0, None),
    "log.profile_steps": (0, None),
    "faults.max_skipped_steps": (1, None),
    "faults.max_failed_saves": (0, None),
    "pretrain.max_logit_scale": (0, None),
    "mesh.model": (1, None),
    "mesh.accumulation_steps": (1, None),
    "seed": (0, _LARGEST),
    **{
        f"{stage}.{field}": bounds
        for stage in ("pretrain", "finetune", "classifier")
        for field, bounds in {
            "epochs": (0, None),
            "warmup_epochs": (0, None),
            "global_batch_size": (1, _MOST),
            "learning_rate": (0, None),
            "min_learning_rate": (0, None),
            "warmup_learning_rate": (0, None),
            "weight_decay": (0, None),
            "label_smoothing": (0, 0.999),
        }.items()
    },
}


def faults(config: Config) -> list[str]:
    """Every value out of bounds and every contradiction, a line each."""
    return _out_of_bounds(config) + _contradictions(config)


def _out_of_bounds(config: Config) -> list[str]:
    flat = flatten(config)
    faults = [
        f"{key}: {shortened(value)} given, too large a number"
        for key, value in flat.items()
        if value in (math.inf, -math.inf) or (type(value) is int and value > _LARGEST)
    ]
    faults += [
        f"{key}: {shortened(value)} has the character U+{ord(found[0]):04X}, of which "
        "neither a name nor a path is made; write it without, in UTF-8"
        for key, value in flat.items()
        if isinstance(value, str) and (found := _UNFIT.search(value))
    ]
    for key, (low, high) in _BOUNDS.items():
        value = flat[key]
        # `not >=` also catches NaN
        if (low is not None and not value >= low) or (
            high is not None and not value <= high
        ):
            least = f"at least {low}" if low is not None else ""
            most = f"at most {high}" if high is not None else ""
            bounds = " and ".join(filter(None, (least, most)))
            faults.append(f"{key}: {shortened(value)} given, {bounds} expected")
    return faults


def _contradictions(config: Config) -> list[str]:
    faults = []
    data, init, pretrain = config.data, config.init, config.pretrain
    if config.model.backbone not in PRESETS:
        faults.append(
            f"model.backbone: {shortened(config.model.backbone)} is unknown"
            f"{nearest(config.model.backbone, PRESETS)}"
        )
    else:
        # A ModifiedResNet halves its input five times.
        stride = PRESETS[config.model.backbone].vision.patch_size or 32
        if config.model.image_size % stride:
            faults.append(
                f"model.image_size={config.model.image_size} is not divisible by "
                f"{stride}, the patch size of {config.model.backbone}"
            )
    if not (init.clip or init.tokenizer or init.vl_ltr):
        faults.append(
            "init.tokenizer: without init.clip there is no vocabulary; name a "
            "directory with tokenizer files, or 'tiny_clip'"
        )
    for key, name in (("clip", init.clip), ("tokenizer", init.tokenizer)):
        if name not in ("", "tiny_clip") and not hub.is_there_or_id(name):
            faults.append(
                f"init.{key}: no path {shortened(name)}, and it is not a hub id "
                "(owner/name); download a Hugging Face CLIP model there (hf download "
                "openai/clip-vit-base-patch16 --local-dir DIR), or use 'tiny_clip'"
            )
    if init.vl_ltr and not os.path.isfile(init.vl_ltr):
        faults.append(
            f"init.vl_ltr: no file {shortened(init.vl_ltr)}; name a checkpoint.pth of "
            "VL-LTR, or its state dict as safetensors"
        )
    if pretrain.epochs and pretrain.distillation != "none" and not init.clip:
        faults.append(
            f"pretrain.distillation={pretrain.distillation!r} needs the frozen CLIP of "
            "init.clip, which is empty; use pretrain.distillation='none'"
        )
    if pretrain.distillation_temperature != 1 and pretrain.distillation != "kl":
        faults.append(
            f"pretrain.distillation_temperature={pretrain.distillation_temperature} "
            f"has no meaning with pretrain.distillation={pretrain.distillation!r}: "
            "'kl' alone has a temperature"
        )
    if config.mesh.data < 1 and config.mesh.data != -1:
        faults.append(
            f"mesh.data={config.mesh.data}: a number of devices from 1, or -1 for all "
            "that mesh.model leaves"
        )
    if config.mesh.fsdp == "model" and config.mesh.model == 1:
        faults.append(
            "mesh.fsdp='model' with mesh.model=1 splits nothing; set mesh.model, or "
            "mesh.fsdp='data'"
        )
    evaluate = config.evaluate
    text = evaluate.zero_shot_text
    if evaluate.zero_shot and data.prompts == "none" and text.startswith("prompt"):
        faults.append(
            f"evaluate.zero_shot_text={text!r} with data.prompts='none': there is no "
            "prompt; use 'sentences', or evaluate.zero_shot=False"
        )
    measured = config.finetune.epochs or evaluate.knn or evaluate.zero_shot
    if not (measured or init.vl_ltr):
        faults.append(
            "nothing would be measured: set finetune.epochs, evaluate.knn or "
            "evaluate.zero_shot"
        )
    for stage, section in (
        ("pretrain", pretrain),
        ("finetune", config.finetune),
        ("classifier", config.classifier),
    ):
        if section.epochs and section.warmup_epochs >= section.epochs:
            faults.append(
                f"{stage}.warmup_epochs={section.warmup_epochs} leaves nothing of "
                f"{stage}.epochs={section.epochs}"
            )
    faults += _against_data(data)
    return faults + _against_feature_views(config.finetune)


def _against_feature_views(options: Finetune) -> list[str]:
    if not (options.epochs and options.feature_views):
        return []
    given, faults = f"finetune.feature_views={options.feature_views}", []
    if options.train_image_tower:
        faults.append(
            f"{given} with finetune.train_image_tower=True: features are kept of a "
            "frozen tower only; set finetune.train_image_tower=False, or "
            "finetune.feature_views=0"
        )
    if options.mixup_alpha > 0 or options.cutmix_alpha > 0:
        faults.append(
            f"{given} with finetune.mixup_alpha={options.mixup_alpha} and "
            f"finetune.cutmix_alpha={options.cutmix_alpha}: these mix pictures, of "
            "which features are not linear; set both to 0, or finetune.feature_views=0"
        )
    return faults


def _against_data(data: Data) -> list[str]:
    faults = []
    if data.source != "shapes":
        if not data.root:
            faults.append(f"data.root: needed for data.source={data.source!r}")
        elif not os.path.isdir(data.root):
            faults.append(f"data.root: no directory {shortened(data.root)}")
    categories = data.layout == "inat18"
    if (data.source == "inat18" and not categories) or (
        data.source in ("shapes", "image_list") and categories
    ):
        faults.append(
            f"data.source={data.source!r} with data.layout={data.layout!r}: "
            "'inat18' goes with 'inat18' only"
        )
    if data.text_root and not os.path.isdir(data.text_root):
        faults.append(f"data.text_root: no directory {shortened(data.text_root)}")
    if data.source == "shapes" and (data.text_root or data.texts == "none"):
        faults.append(
            "data.text_root, data.texts: data.source='shapes' makes its own texts; "
            "leave both as they are by default"
        )
    try:
        files.check_encoding(data.text_encoding)
    except UserError as error:
        faults.append(f"data.text_encoding: {error}")
    if data.texts == "none" and data.prompts == "none":
        faults.append(
            "data.texts='none' with data.prompts='none': no class has a sentence"
        )
    if not data.name:
        faults.append(
            "data.name: needed; the report carries it, list files are "
            "ROOT/NAME_{train,val,test}.txt, and a prepared data set has it"
        )
    return faults
