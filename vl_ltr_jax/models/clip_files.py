"""CLIP on disk: published weights in, trained weights out.

A source is a directory with Hugging Face's files (`config.json`, `model.safetensors`,
whole or in shards), one with tensors under OpenAI's names
(`open_clip_model.safetensors`), a hub id of either, or a single file: safetensors, a
PyTorch checkpoint (the authors' CVLP) or OpenAI's TorchScript. Where the names are
OpenAI's, the shapes tell the sizes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from vl_ltr_jax import json_text
from vl_ltr_jax.models import hub, vl_ltr
from vl_ltr_jax.models.clip import ClipConfig, variable_shapes
from vl_ltr_jax.models.positions import resize_tower
from vl_ltr_jax.models.sizes import from_config_json, from_shapes, to_config_json
from vl_ltr_jax.models.tensor_files import is_tensor_file, read_shapes, read_tensors
from vl_ltr_jax.models.weights import (
    HUGGING_FACE,
    OPENAI,
    Names,
    batch_counters,
    from_tensors,
    to_tensors,
)

Dtype = Literal["float16", "bfloat16", "float32"]
_HUGGING_FACE_FILE = "model.safetensors"
_OPENAI_FILE = "open_clip_model.safetensors"
# open_clip's file first: beside it, model.safetensors may be the image tower alone.
_FILES = (
    _OPENAI_FILE,
    _HUGGING_FACE_FILE,
    f"{_HUGGING_FACE_FILE}.index.json",
    "pytorch_model.bin",
)
_HOW_TO_GET = (
    "Where there is a network, `hf download openai/clip-vit-base-patch16 --local-dir "
    "DIR` gets ViT-B/16 and `hf download timm/resnet50_clip.openai --local-dir DIR` "
    "RN50."
)


@dataclass(frozen=True)
class ClipFile:
    """Where a CLIP lies and what it is; no tensor has been read.

    Attributes:
        path: The file of tensors.
        names: The family of its names.
        config: Sizes.
    """

    path: Path
    names: Names
    config: ClipConfig


def find_weights(source: str | Path) -> Path:
    """The file of tensors of a source.

    Raises:
        ValueError: If there is none, with what is there and how to get one.
    """
    found_at = hub.local_path(str(source))
    if found_at.is_file() and is_tensor_file(found_at):
        return found_at
    for name in _FILES:
        if (found_at / name).is_file():
            return found_at / name
    found = "There is no such file or directory."
    if found_at.is_dir():
        names = sorted(path.name for path in found_at.iterdir())
        found = f"It holds {', '.join(names[:20]) or 'nothing'}."
        if any(is_tensor_file(Path(name)) for name in names):
            found += " If one of these is the CLIP, name the file itself."
    elif found_at.is_file():
        found = "It is a file of another kind."
    raise ValueError(
        f"{source}: no CLIP weights, looked for {', '.join(_FILES)}. {found} "
        f"{_HOW_TO_GET}"
    )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path}: missing beside the weights. {_HOW_TO_GET}")
    try:
        content = json_text.parse(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}. {_HOW_TO_GET}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not an object")
    return content


def _check_quick_gelu(path: Path) -> None:
    model = _read_json(path).get("model_cfg")
    if not isinstance(model, dict) or model.get("quick_gelu") is not True:
        raise ValueError(
            f"{path}: model_cfg.quick_gelu is not true. OpenAI's weights need it (if "
            f"these are OpenAI's, write it there); weights trained with the exact GELU "
            f"are not supported"
        )


def _naming(path: Path, names: Mapping[str, Any]) -> Names:
    """The family of names in a file."""
    if vl_ltr.kind_of(names) == "LGR":
        raise ValueError(
            f"{path}: an LGR checkpoint of VL-LTR, which has no text tower; "
            f"--config.init.vl_ltr={path} evaluates it"
        )
    if "token_embedding.weight" in names:
        return OPENAI
    if any(name.startswith(("text_model.", "vision_model.")) for name in names):
        return HUGGING_FACE
    hint = ""
    if any(name.startswith(("stem.", "blocks.", "patch_embed.")) for name in names):
        hint = " These are timm's names, of an image tower alone."
    raise ValueError(
        f"{path}: its tensors bear neither OpenAI's names (token_embedding.weight, "
        f"...) nor Hugging Face's (text_model., vision_model.) but "
        f"{', '.join(list(names)[:3])}, ...{hint} {_HOW_TO_GET}"
    )


def find_clip(source: str | Path) -> ClipFile:
    """Finds a CLIP and tells its sizes.

    Args:
        source: See the module's docstring.

    Raises:
        ValueError: If files are missing, broken, or of another kind of model.
    """
    path = find_weights(source)
    shapes = read_shapes(path)
    names = _naming(path, shapes)
    if names is HUGGING_FACE:
        config = path.with_name("config.json")
        return ClipFile(path, names, from_config_json(_read_json(config), str(config)))
    settings = path.with_name("open_clip_config.json")
    if settings.is_file():
        _check_quick_gelu(settings)
    return ClipFile(path, names, from_shapes(shapes, str(path)))


def read_config(source: str | Path) -> ClipConfig:
    """The sizes of the CLIP in a source; errors as those of `find_clip`."""
    return find_clip(source).config


def load_clip(
    source: str | Path, *, image_size: int | None = None
) -> tuple[ClipConfig, dict[str, Any]]:
    """Reads a CLIP.

    Args:
        source: See the module's docstring.
        image_size: Side in pixels the model is to take; position embeddings are
            interpolated where it differs from the file's.

    Returns:
        The sizes, and the variables as float32 numpy arrays.

    Raises:
        WeightMismatchError: If the tensors are not exactly those of the model.
        ValueError: If files are missing, broken, or of another kind of model.
    """
    found = find_clip(source)
    return from_file(found, read_tensors(found.path), image_size=image_size)


def from_file(
    found: ClipFile,
    tensors: Mapping[str, np.ndarray],
    *,
    image_size: int | None = None,
) -> tuple[ClipConfig, dict[str, Any]]:
    """As `load_clip`, from tensors that have been read."""
    config = found.config
    variables = from_tensors(
        tensors, variable_shapes(config), found.names, str(found.path)
    )
    if image_size is not None:
        params = variables["params"]
        _, visual = resize_tower(params["visual"], config.vision, image_size)
        config = config.at_image_size(image_size)
        variables = {**variables, "params": {**params, "visual": visual}}
    return config, variables


def save_clip(
    directory: str | Path,
    config: ClipConfig,
    variables: Mapping[str, Any],
    *,
    dtype: Dtype = "float16",
    names: Names | None = None,
) -> None:
    """Writes a CLIP so that `load_clip` and the PyTorch world can read it.

    Under Hugging Face's names, with a `config.json`, it opens in
    `transformers.CLIPModel.from_pretrained`; under OpenAI's it goes into
    `open_clip_model.safetensors`, whose heads are read back as 64 wide.

    Args:
        directory: Made if need be.
        config: Sizes.
        variables: Those of `Clip(config)`.
        dtype: That of the tensors; OpenAI's own files are float16.
        names: `HUGGING_FACE` or `OPENAI`; if None, the first for a ViT, the second
            for a ResNet.

    Raises:
        ValueError: If Hugging Face's names are asked for a ResNet, which
            `transformers` lacks.
    """
    vit = config.vision.kind == "vit"
    names = names or (HUGGING_FACE if vit else OPENAI)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tensors = to_tensors(variables, names, jnp.dtype(dtype))
    path = directory / _OPENAI_FILE
    if names is HUGGING_FACE:
        if not vit:
            raise ValueError(
                "transformers.CLIPModel has no ResNet tower: --to openai writes it for "
                "open_clip and OpenAI's code"
            )
        path = directory / _HUGGING_FACE_FILE
        content = json.dumps(to_config_json(config, dtype), indent=2) + "\n"
        (directory / "config.json").write_text(content, encoding="utf-8")
    save_file(tensors | batch_counters(tensors), path, metadata={"format": "pt"})
