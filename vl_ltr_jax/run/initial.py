"""The towers that a run starts from: what `init` and `model` name, and its pixels."""

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

_ROUNDED = 1e-3  # VL-LTR writes CLIP's mean and deviation with four digits


class InputError(UserError):
    """Inputs that do not fit each other or the configuration."""


class Towers(NamedTuple):
    """The towers of a run before any stage.

    Attributes:
      clip_config: sizes at the run's image size, and activations.
      normalization: mean and standard deviation of pixels.
      variables: those of the weights; None where towers start at random.
      released_head: the head of an LGR checkpoint.
    """

    clip_config: ClipConfig
    normalization: transforms.Constants
    variables: dict[str, Any] | None = None
    released_head: vl_ltr_files.ReleasedHead | None = None


def model_source(name: str) -> Path:
    """Where a model lies: a path or, fetched, a hub id.

    `tiny_clip` is the one shipped with the package.

    Raises:
      HubError: if the hub does not give it.
    """
    if name == "tiny_clip":
        return Path(str(resources.files("vl_ltr_jax"))) / "assets" / "tiny_clip"
    return hub.local_path(name)


def find_clip(config: Config) -> clip_files.ClipFile:
    """Finds the CLIP of `init.clip`, with what the configuration says of it.

    Raises:
      UserError: see :func:`clip_files.find_clip`.
    """
    activation = config.init.activation
    return clip_files.find_clip(
        model_source(config.init.clip),
        activation=None if activation == "auto" else activation,
        head_width=config.init.head_width or None,
    )


def released(config: Config) -> vl_ltr_files.Released:
    """The checkpoint of `init.vl_ltr`, for the run's image size.

    Raises:
      UserError: if its file is gone or broken.
    """
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
    """Reads the weights, says what is assumed of them, and checks the backbone.

    Raises:
      UserError: naming the file or the key, and the fault.
    """
    size = config.model.image_size
    wanted = PRESETS[config.model.backbone].at_image_size(size)
    released_head, own = None, None
    if config.init.vl_ltr:
        key, given = "init.vl_ltr", config.init.vl_ltr
        checkpoint = released(config)
        if config.init.activation == "auto":
            console.say(
                f"{key}={given}: taken for VL-LTR's own towers, which have QuickGELU; "
                "init.activation names another"
            )
        text, released_head = checkpoint.text or wanted.text, checkpoint.released_head
        found = ClipConfig(checkpoint.vision, text, checkpoint.embed_dim)
        variables = checkpoint.variables
    elif config.init.clip:
        key, given = "init.clip", config.init.clip
        file = find_clip(config)
        own = file.preprocessing
        _warn_of_differences(config, file)
        found, variables = clip_files.from_file(
            file, read_tensors(file.path), image_size=size
        )
    else:
        if config.init.activation != "auto":
            wanted = wanted.with_activations(*2 * (config.init.activation,))
        return Towers(wanted, _normalization(config, None))
    # The activation is that of the weights, whatever the backbone's name stands for.
    activations = found.vision.activation, found.text.activation
    if found != wanted.with_activations(*activations):
        names = [
            name
            for name, preset in PRESETS.items()
            if size % preset.vision.stride == 0
            and found == preset.at_image_size(size).with_activations(*activations)
        ]
        mend = f"Set model.backbone={names[0]!r}" if names else "No backbone fits it"
        raise InputError(
            f"{key}={given!r} is not of model.backbone={config.model.backbone!r}: "
            f"{'; '.join(_differences(found, wanted))}. {mend}."
        )
    return Towers(found, _normalization(config, own), variables, released_head)


def _differences(found: ClipConfig, wanted: ClipConfig) -> list[str]:
    """Returns the sizes that differ, each with both values; activations left out."""
    fields, others = (
        traverse_util.flatten_dict(dataclasses.asdict(config), sep=".")
        for config in (found, wanted)
    )
    return [
        f"{name} {value}, not {others[name]}"
        for name, value in fields.items()
        if value != others[name] and not name.endswith("activation")
    ]


def _warn_of_differences(config: Config, file: clip_files.ClipFile) -> None:
    """Says what is assumed of a model, and what the run does otherwise than it."""
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
                f"{key}: no file beside the weights says how pixels are normalised; "
                "they are as OpenAI's CLIP's. data.normalization names others"
            )
        return
    if (own.interpolation, own.resize) != ("bicubic", "shortest"):
        console.warn(
            f"{key}: made for pictures resized by {own.interpolation} "
            f"({own.resize!r}); here they are resized by bicubic and cut, as "
            f"data.eval_recipe={config.data.eval_recipe!r} does"
        )
    used = _normalization(config, own)
    if not np.allclose(used, own.normalization, atol=_ROUNDED):
        console.warn(
            f"{key}: made for pixels of mean and deviation {own.normalization}; "
            f"data.normalization={config.data.normalization!r} has {used}"
        )
