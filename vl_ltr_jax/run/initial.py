"""The towers at the start of a run, from the sections `init` and `model`."""

import dataclasses
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.data.images import transforms
from vl_ltr_jax.logs import console
from vl_ltr_jax.models.clip import PRESETS, ClipConfig
from vl_ltr_jax.models.port import clip_files, hub, vl_ltr_files
from vl_ltr_jax.models.port.preprocessing import Preprocessing
from vl_ltr_jax.models.port.sizes import Details
from vl_ltr_jax.models.port.tensor_files import read_tensors
from vl_ltr_jax.runtime.errors import UserError

_ROUNDING = 1e-3  # VL-LTR writes CLIP's mean and deviation with four digits


class InputError(UserError):
    """Inputs that do not fit each other or the configuration."""


class Towers(NamedTuple):
    """The towers of a run before any stage."""

    clip_config: ClipConfig  # at the run's image size
    normalization: transforms.Constants
    variables: dict[str, Any] | None = None  # None for a random start
    released_head: vl_ltr_files.ReleasedHead | None = None


def model_source(name: str) -> Path:
    """Returns the path of a model; `tiny_clip` is that of this package.

    Raises:
      HubError: a hub id cannot be downloaded.
    """
    if name == "tiny_clip":
        return Path(str(resources.files("vl_ltr_jax"))) / "assets" / "tiny_clip"
    return hub.local_path(name)


def tokenizer_directory(config: Config) -> Path:
    """Returns the directory of the tokenizer's files.

    Raises:
      InputError: the configuration names no tokenizer.
      HubError: the hub does not give it.
    """
    name = config.init.tokenizer or config.init.clip
    if not name:
        raise InputError(
            f"init.vl_ltr={config.init.vl_ltr}: a CVLP, whose text tower needs a "
            "vocabulary. Set init.tokenizer to a directory with CLIP's tokenizer "
            "files, or to openai/clip-vit-base-patch16"
        )
    source = model_source(name)
    return source.parent if source.is_file() else source


def find_clip(config: Config) -> clip_files.ClipFile:
    """Finds the CLIP of `init.clip`; raises as :func:`clip_files.find_clip`."""
    activation = config.init.activation
    return clip_files.find_clip(
        model_source(config.init.clip),
        activation=None if activation == "auto" else activation,
        head_width=config.init.head_width or None,
    )


def released(config: Config) -> vl_ltr_files.Released:
    """Reads the checkpoint of `init.vl_ltr`, at the run's image size."""
    activation = config.init.activation
    details = Details(
        "quick_gelu" if activation == "auto" else activation,
        config.init.head_width or None,
    )
    checkpoint = vl_ltr_files.load(Path(config.init.vl_ltr), details)
    return checkpoint.at_image_size(config.model.image_size)


def _normalization(config: Config, own: Preprocessing | None) -> transforms.Constants:
    if config.data.normalization != "model":
        return transforms.NORMALIZATIONS[config.data.normalization]
    if config.init.vl_ltr:  # the authors' checkpoints saw these
        return transforms.NORMALIZATIONS["clip_4digit"]
    return own.normalization if own else transforms.NORMALIZATIONS["clip"]


def read(config: Config) -> Towers:
    """Reads the weights, warns of assumptions about them, and checks the backbone.

    Raises:
      UserError: a file or key is at fault.
    """
    size = config.model.image_size
    preset = PRESETS[config.model.backbone].at_image_size(size)
    released_head, own = None, None
    if config.init.vl_ltr:
        key = f"init.vl_ltr={config.init.vl_ltr}"
        checkpoint = released(config)
        if config.init.activation == "auto":
            console.say(
                f"{key}: taken for VL-LTR's own towers, which have QuickGELU; "
                "init.activation names another"
            )
        text, released_head = checkpoint.text or preset.text, checkpoint.released_head
        clip_config = ClipConfig(checkpoint.vision, text, checkpoint.embed_dim)
        variables = checkpoint.variables
    elif config.init.clip:
        key = f"init.clip={config.init.clip}"
        file = find_clip(config)
        own = file.preprocessing
        _warn_of_differences(config, file)
        clip_config, variables = clip_files.from_file(
            file, read_tensors(file.path), image_size=size
        )
    else:
        if config.init.activation != "auto":
            preset = preset.with_activations(*2 * (config.init.activation,))
        return Towers(preset, _normalization(config, None))
    # The weights decide the activation, for any backbone.
    activations = clip_config.vision.activation, clip_config.text.activation
    if clip_config != preset.with_activations(*activations):
        names = [
            name
            for name, other in PRESETS.items()
            if size % other.vision.stride == 0
            and clip_config == other.at_image_size(size).with_activations(*activations)
        ]
        remedy = f"Set model.backbone={names[0]!r}" if names else "No backbone fits it"
        raise InputError(
            f"{key} is not of model.backbone={config.model.backbone!r}: "
            f"{'; '.join(_differences(clip_config, preset))}. {remedy}."
        )
    return Towers(clip_config, _normalization(config, own), variables, released_head)


def _differences(actual: ClipConfig, expected: ClipConfig) -> list[str]:
    """Describes the sizes that differ, without activations."""
    fields, values = (
        traverse_util.flatten_dict(dataclasses.asdict(config), sep=".")
        for config in (actual, expected)
    )
    return [
        f"{name} {value}, not {values[name]}"
        for name, value in fields.items()
        if value != values[name] and not name.endswith("activation")
    ]


def _warn_of_differences(config: Config, file: clip_files.ClipFile) -> None:
    """Warns of differences between a model's own pixels and those of the run."""
    key, own = f"init.clip={config.init.clip}", file.preprocessing
    for note in file.notes:
        console.warn(note)
    size = file.config.vision.image_size
    if size != config.model.image_size:
        console.say(
            f"{key}: made for {size} pixels; its positions are interpolated to "
            f"model.image_size={config.model.image_size}"
        )
    if own is None:
        if config.data.normalization == "model":
            console.warn(
                f"{key}: no file beside the weights has a mean and deviation of "
                "pixels; those of OpenAI's CLIP are used. Set data.normalization."
            )
        return
    if (own.interpolation, own.resize) != ("bicubic", "shortest"):
        console.warn(
            f"{key}: made for images resized by {own.interpolation} ({own.resize!r}); "
            f"data.eval_recipe={config.data.eval_recipe!r} resizes by bicubic and crops"
        )
    used = _normalization(config, own)
    if not np.allclose(used, own.normalization, atol=_ROUNDING):
        console.warn(
            f"{key}: made for pixels of mean and deviation {own.normalization}; "
            f"data.normalization={config.data.normalization!r} has {used}"
        )
