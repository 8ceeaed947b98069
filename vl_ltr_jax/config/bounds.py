"""Values out of bounds, and values that contradict each other."""

import math
import os
import re
from collections.abc import Iterator

from vl_ltr_jax.config.settings import KEYS, Config, flatten
from vl_ltr_jax.data.text import files
from vl_ltr_jax.logs.messages import nearest, shortened
from vl_ltr_jax.models.clip import PRESETS
from vl_ltr_jax.models.port import hub
from vl_ltr_jax.runtime.errors import UserError

_MAX_INT = 2**31 - 1  # steps, seeds and indices are 32-bit on devices
# Control characters, and surrogates: bytes of a command line that are not UTF-8.
_BAD_CHARACTERS = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def faults(config: Config, *, files: bool = True) -> list[str]:
    """Returns one message for each value out of bounds and each contradiction.

    With `files` also for each file that is absent.
    """
    groups = [_out_of_bounds, _data, _models, _training, _evaluation]
    groups += [_files] if files else []
    return [message for group in groups for message in group(config)]


def _out_of_bounds(config: Config) -> Iterator[str]:
    for key, value in flatten(config).items():
        head, (least, most) = f"{key}={shortened(value)}", KEYS[key].bounds
        if isinstance(value, str):
            if _BAD_CHARACTERS.search(value):
                yield f"{head}: a control character, or not UTF-8. Leave it out."
        elif abs(value) > _MAX_INT and (type(value) is int or math.isinf(value)):
            yield f"{head}: too large a number."
        elif not least <= value <= most:  # also if it is NaN
            yield f"{head}: from {least:g} to {most:g} expected."


def _data(config: Config) -> Iterator[str]:
    data = config.data
    shapes, source = data.source == "shapes", f"data.source={data.source!r}"
    categories = data.layout == "inat18", data.source == "inat18"
    if data.source not in ("image_folder", "tfds") and len(set(categories)) == 2:
        yield f"data.layout={data.layout!r}: {source} has another layout."
    if shapes and (data.text_root or data.texts == "none"):
        yield f"data.text_root, data.texts: {source} has its own texts. Leave them."
    try:
        files.check_encoding(data.text_encoding)
    except UserError as error:
        yield f"data.text_encoding: {error}"
    if data.texts == data.prompts == "none":
        yield "data.texts='none', data.prompts='none': no class has a sentence."


def _models(config: Config) -> Iterator[str]:
    model, init, mesh = config.model, config.init, config.mesh
    if model.backbone not in PRESETS:
        near = nearest(model.backbone, PRESETS)
        yield f"model.backbone={shortened(model.backbone)}: unknown{near}"
    else:
        # A ModifiedResNet halves its input five times.
        patch = PRESETS[model.backbone].vision.patch_size or 32
        if model.image_size % patch:
            words = f"not divisible by {patch}, the patch of {model.backbone}."
            yield f"model.image_size={model.image_size}: {words}"
    if not (init.clip or init.tokenizer or init.vl_ltr):
        yield "init.tokenizer='': no vocabulary. Name a directory, or 'tiny_clip'."
    if mesh.data < 1 and mesh.data != -1:
        yield f"mesh.data={mesh.data}: at least 1 expected, or -1 for all devices."
    if mesh.fsdp == "model" and mesh.model == 1:
        yield "mesh.fsdp='model': mesh.model=1 splits nothing. Set one of them."


def _files(config: Config) -> Iterator[str]:
    data, init = config.data, config.init
    if not data.name:
        yield "data.name='': reports, list files and tfds need a name. Set it."
    if not (data.source == "shapes" or data.root):
        yield f"data.root='': data.source={data.source!r} needs a directory. Set it."
    for key in ("root", "text_root"):
        unread = key == "root" and data.source == "shapes"
        directory = "" if unread else getattr(data, key)
        if directory and not os.path.isdir(directory):
            yield f"data.{key}={shortened(directory)}: no such directory."
    for key, name in (("clip", init.clip), ("tokenizer", init.tokenizer)):
        if name not in ("", "tiny_clip") and not hub.is_there_or_id(name):
            yield (
                f"init.{key}={shortened(name)}: no such path, and no hub id "
                "(owner/name). Download a CLIP model (hf download "
                "openai/clip-vit-base-patch16 --local-dir DIR), or set 'tiny_clip'."
            )
    if init.vl_ltr and not os.path.isfile(init.vl_ltr):
        yield f"init.vl_ltr={shortened(init.vl_ltr)}: no such file."


def _training(config: Config) -> Iterator[str]:
    pretrain, finetune = config.pretrain, config.finetune
    form, temperature = pretrain.distillation, pretrain.distillation_temperature
    if pretrain.epochs and form != "none" and not config.init.clip:
        yield f"pretrain.distillation={form!r}: init.clip='' is no teacher. Set 'none'."
    if temperature != 1 and form != "kl":
        head = f"pretrain.distillation_temperature={temperature}"
        yield f"{head}: pretrain.distillation={form!r} has no temperature. Set 'kl'."
    for stage in ("pretrain", "finetune", "classifier"):
        epochs = getattr(config, stage).epochs
        warmup = getattr(config, stage).warmup_epochs
        if epochs and warmup >= epochs:
            yield f"{stage}.warmup_epochs={warmup}: not below {stage}.epochs={epochs}."
    if finetune.epochs and finetune.feature_views:
        if finetune.train_image_tower:
            head, reason = "finetune.train_image_tower=True", "the features change"
            yield f"{head}: {reason}. Set False, or finetune.feature_views=0."
        if finetune.mixup_alpha > 0 or finetune.cutmix_alpha > 0:
            mixed = f"{finetune.mixup_alpha}, finetune.cutmix_alpha"
            head = f"finetune.mixup_alpha={mixed}={finetune.cutmix_alpha}"
            reason = "features of mixed images are not mixed features"
            yield f"{head}: {reason}. Set both to 0, or finetune.feature_views=0."


def _evaluation(config: Config) -> Iterator[str]:
    evaluate, text = config.evaluate, config.evaluate.zero_shot_text
    no_prompts = config.data.prompts == "none" and text.startswith("prompt")
    if evaluate.zero_shot and no_prompts:
        head = f"evaluate.zero_shot_text={text!r}"
        yield f"{head}: data.prompts='none' gives no prompt. Set 'sentences'."
    measured = config.finetune.epochs or evaluate.knn or evaluate.zero_shot
    if not (measured or config.init.vl_ltr):
        keys = "finetune.epochs, evaluate.knn, evaluate.zero_shot"
        yield f"{keys}: nothing would be measured. Set one of them."
