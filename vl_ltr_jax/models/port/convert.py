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
from vl_ltr_jax.storage.atomic import write_directory

LGR_FILE = "lgr.safetensors"
# Files of a family with facts that neither tensors nor tokenizer files state.
_OWN_FILES = {
    "hf": clip_files.PROCESSOR_FILES,
    "openai": (open_clip.SETTINGS,),
}


class PortError(UserError):
    """A model that has no such form."""


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

    Hugging Face's files converted to themselves stay the same byte for byte.

    Args:
      source: directory, file or hub id.
      destination: directory that does not exist, or is empty.
      to: `hf`, `openai`, or `vl_ltr` for an LGR.
      dtype: dtype of the tensors; if None the source's, float32 if it has several.
      image_size: side in pixels; position embeddings are interpolated to it.
      activation: see :func:`clip_files.find_clip`.
      head_width: see :func:`clip_files.find_clip`.

    Returns:
      The destination.

    Raises:
      UserError: the source is damaged or has no such form, or the destination is in
        use. The destination is then as before.
    """
    path = clip_files.find_weights(source)
    tensors = read_tensors(path)
    is_lgr = vl_ltr_files.kind_of(tensors) == "LGR"
    if is_lgr != (to == "vl_ltr"):
        raise PortError(
            f"--to={to}: {path} is {'an LGR' if is_lgr else 'a CLIP'}. Use "
            f"{'--to vl_ltr' if is_lgr else '--to hf or --to openai'}"
        )
    dtype = dtype or _dtype_of(tensors)

    def write(directory: Path) -> None:
        if is_lgr:
            released = vl_ltr_files.from_tensors(tensors, str(path))
            if image_size is not None:
                released = released.at_image_size(image_size)
            write_lgr(directory, released, dtype)
            return
        file = clip_files.find_clip(source, activation, head_width)
        for note in file.notes:
            console.warn(note)
        config, variables = clip_files.from_file(file, tensors, image_size=image_size)
        same = config == file.config and FAMILIES[to] is file.names
        preprocessing = file.preprocessing
        if same and to == "hf":
            preprocessing = None  # the source's own files are copied below
        elif preprocessing is None:
            console.warn(
                f"{path}: no file states the normalisation of pixels; written are the "
                "numbers of OpenAI's CLIP"
            )
            preprocessing = Preprocessing(file.config.vision.image_size)
        if preprocessing is not None:
            preprocessing = preprocessing.at_image_size(config.vision.image_size)
        write_clip(
            directory,
            config,
            variables,
            to=to,
            dtype=dtype,
            tokenizer=path.parent,
            preprocessing=preprocessing,
        )
        if same:  # the source's own files, byte for byte
            _copy(path.parent, directory, _OWN_FILES[to])
            if to == "hf" and dtype == _dtype_of(tensors):
                _copy(path.parent, directory, ("config.json",))

    return write_directory(Path(destination), write)


def write_clip(
    directory: Path,
    config: ClipConfig,
    variables: Mapping[str, Any],
    *,
    to: str,
    dtype: clip_files.Dtype,
    tokenizer: Path,
    preprocessing: Preprocessing | None,
) -> None:
    """Writes a CLIP with the files of the tokenizer in another directory."""
    if to == "openai" and preprocessing is not None:
        side, shorter_side = preprocessing.image_size, preprocessing.shorter_side
        if side != shorter_side:
            console.warn(
                f"{open_clip.SETTINGS} cannot state a shorter side of {shorter_side} "
                f"pixels, and open_clip resizes to {side}. Resize to {shorter_side} "
                "and crop the centre, or use --to hf"
            )
    clip_files.save_clip(
        directory,
        config,
        variables,
        dtype=dtype,
        names=FAMILIES[to],
        preprocessing=preprocessing,
    )
    _copy(tokenizer, directory, TOKENIZER_FILES)


def _copy(source: Path, directory: Path, names: Sequence[str]) -> None:
    for name in names:
        if (source / name).is_file():
            shutil.copy(source / name, directory / name)


def write_lgr(
    directory: Path, released: vl_ltr_files.Released, dtype: clip_files.Dtype
) -> None:
    """Writes an LGR as the authors' state dict, in safetensors."""
    if released.released_head is None:
        raise PortError("--to=vl_ltr: a CVLP has no recognition head. Use --to hf")
    vision = released.vision
    # The authors' code builds OpenAI's towers only.
    if vision.patch_size and (
        vision.activation != "quick_gelu" or vision.width != 64 * vision.heads
    ):
        raise PortError(
            f"--to=vl_ltr: the image tower has {vision.activation} and heads of width "
            f"{vision.width // vision.heads}, the authors' LGR quick_gelu and 64. "
            "--to hf and --to openai keep the tower, --to stablehlo the whole model"
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
    """Returns the dtype of the weights; float32 if they have several."""
    dtypes = {tensor.dtype.name for tensor in tensors.values()} - {"int32", "int64"}
    return next((d for d in get_args(clip_files.Dtype) if dtypes == {d}), "float32")
