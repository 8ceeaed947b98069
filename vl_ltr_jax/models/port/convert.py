"""Conversion of weights between families, into directories that appear whole."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from vl_ltr_jax.logs import console
from vl_ltr_jax.models.clip import ClipConfig
from vl_ltr_jax.models.layers import Activation
from vl_ltr_jax.models.port import clip_files, open_clip, vl_ltr_files
from vl_ltr_jax.models.port.clip_files import TOKENIZER_FILES
from vl_ltr_jax.models.port.listing import FAMILIES
from vl_ltr_jax.models.port.preprocessing import Preprocessing
from vl_ltr_jax.models.port.tensor_files import read_tensors
from vl_ltr_jax.runtime.errors import UserError
from vl_ltr_jax.storage.atomic import write_whole

LGR_FILE = "lgr.safetensors"
# Beside weights of a family, what no tensor and no tokenizer holds.
_OWN_FILES = {
    "hf": clip_files.PROCESSOR_FILES,
    "openai": (open_clip.SETTINGS,),
}


class PortError(UserError):
    """A model without the form asked for, or no place to put it."""


def convert(
    source: str,
    destination: str | Path,
    *,
    to: str,
    dtype: clip_files.Dtype | None = None,
    image_size: int | None = None,
    activation: Activation | None = None,
    head_width: int | None = None,
) -> Path:
    """Writes the model of a source under another family of names.

    Hugging Face's files converted to themselves come out byte for byte as they were.

    Args:
        source: A directory, a file or a hub id.
        destination: A directory that does not exist, or is empty.
        to: `hf`, `openai`, or `vl_ltr` for an LGR.
        dtype: Of the tensors; if None the source's, float32 if it has several.
        image_size: Side in pixels; position embeddings are interpolated to it.
        activation: As `clip_files.find_clip`.
        head_width: As `clip_files.find_clip`.

    Returns:
        The destination.

    Raises:
        UserError: If the source is broken or has no such form, or the destination is
            in use. Nothing is left half-written.
    """
    path = clip_files.find_weights(source)
    tensors = read_tensors(path)
    is_lgr = vl_ltr_files.kind_of(tensors) == "LGR"
    if is_lgr != (to == "vl_ltr"):
        allowed = ("vl_ltr",) if is_lgr else ("hf", "openai")
        raise PortError(
            f"{path} is {'an LGR' if is_lgr else 'a CLIP'}: --to {to} does not fit, "
            f"use --to {' or --to '.join(allowed)}"
        )
    chosen = dtype or _dtype_of(tensors)

    def write(directory: Path) -> None:
        if is_lgr:
            released = vl_ltr_files.from_tensors(tensors, str(path))
            if image_size is not None:
                released = released.at_image_size(image_size)
            write_lgr(directory, released, chosen)
            return
        found = clip_files.find_clip(
            source, activation=activation, head_width=head_width
        )
        for note in found.notes:
            console.warn(note)
        config, variables = clip_files.from_file(found, tensors, image_size=image_size)
        same = config == found.config and FAMILIES[to] is found.names
        # Files of Hugging Face's that are copied below must not get another beside.
        preprocessing = None if same and to == "hf" else found.preprocessing
        if preprocessing is None and not (same and to == "hf"):
            console.warn(
                f"{path}: no file beside it says how pixels are normalised; written "
                "are the numbers of OpenAI's CLIP"
            )
            preprocessing = Preprocessing(found.config.vision.image_size)
        if preprocessing is not None:
            size = config.vision.image_size
            preprocessing = preprocessing.at_image_size(size)
        write_clip(
            directory,
            config,
            variables,
            to=to,
            dtype=chosen,
            beside=path.parent,
            preprocessing=preprocessing,
        )
        if same:  # the source's own files, byte for byte
            _copy(path.parent, directory, _OWN_FILES[to])
            if chosen == _dtype_of(tensors):
                _copy(path.parent, directory, ("config.json",) if to == "hf" else ())

    return write_whole(Path(destination), write)


def write_clip(
    directory: Path,
    config: ClipConfig,
    variables: Mapping[str, Any],
    *,
    to: str,
    dtype: clip_files.Dtype,
    beside: Path,
    preprocessing: Preprocessing | None,
) -> None:
    """Writes a CLIP with the tokenizer files that lie in `beside`."""
    if to == "openai" and preprocessing is not None:
        side, shorter_side = preprocessing.image_size, preprocessing.shorter_side
        if side != shorter_side:
            console.warn(
                f"{open_clip.SETTINGS} has no place for a shorter side of "
                f"{shorter_side} pixels, and open_clip resizes to {side}; for this "
                f"model's pixels resize to {shorter_side} and cut the centre, or take "
                "--to hf"
            )
    clip_files.save_clip(
        directory,
        config,
        variables,
        dtype=dtype,
        names=FAMILIES[to],
        preprocessing=preprocessing,
    )
    _copy(beside, directory, TOKENIZER_FILES)


def _copy(source: Path, directory: Path, names: Sequence[str]) -> None:
    for name in names:
        if (source / name).is_file():
            shutil.copy(source / name, directory / name)


def write_lgr(
    directory: Path, released: vl_ltr_files.Released, dtype: clip_files.Dtype
) -> None:
    """Writes an LGR as the authors' state dict, in safetensors."""
    if released.released_head is None:
        raise PortError("a CVLP has no recognition head to write")
    vision = released.vision
    # The authors' code builds OpenAI's towers and is told of no other.
    if vision.patch_size and (
        vision.activation != "quick_gelu" or vision.width != 64 * vision.heads
    ):
        raise PortError(
            f"the image tower has {vision.activation} and heads "
            f"{vision.width // vision.heads} wide; the authors' LGR has quick_gelu and "
            "64. --to hf and --to openai keep the tower, --to stablehlo all of it"
        )
    tensors = vl_ltr_files.lgr_tensors(released.variables, released.released_head)
    save_file(
        {
            name: tensor.astype(jnp.dtype(dtype)) if tensor.dtype != int else tensor
            for name, tensor in tensors.items()
        },
        directory / LGR_FILE,
        metadata={"format": "pt"},
    )


def _dtype_of(tensors: Mapping[str, np.ndarray]) -> clip_files.Dtype:
    """The one dtype of the weights; float32 where there are several."""
    kinds = {tensor.dtype.name for tensor in tensors.values()} - {"int32", "int64"}
    for dtype in get_args(clip_files.Dtype):
        if kinds == {dtype}:
            return dtype
    return "float32"
