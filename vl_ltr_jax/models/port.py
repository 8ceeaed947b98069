"""CLIP on disk: published weights in, trained weights out, as safetensors.

A directory is either Hugging Face's (`config.json`, `model.safetensors`) or holds
tensors under OpenAI's names (`open_clip_model.safetensors`), whose shapes tell the
sizes. Only local directories are read.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from vl_ltr_jax.models.clip import ClipConfig
from vl_ltr_jax.models.positions import interpolate_positions
from vl_ltr_jax.models.sizes import from_config_json, from_shapes, to_config_json
from vl_ltr_jax.models.weights import (
    HUGGING_FACE,
    OPENAI,
    Names,
    WeightMismatchError,
    from_openai,
    from_tensors,
    to_tensors,
)

__all__ = [
    "WeightMismatchError",
    "from_openai",
    "load_clip",
    "read_config",
    "save_clip",
]

_HUGGING_FACE_FILE = "model.safetensors"
_OPENAI_FILE = "open_clip_model.safetensors"
_HOW_TO_GET = (
    "Where there is a network, `hf download openai/clip-vit-base-patch16 --local-dir "
    "DIR` gets ViT-B/16 and `hf download timm/resnet50_clip.openai --local-dir DIR` "
    "RN50."
)


def _weights_file(directory: Path) -> Path:
    # open_clip's file first: beside it, model.safetensors may be the image tower alone.
    for name in (_OPENAI_FILE, _HUGGING_FACE_FILE):
        if (directory / name).is_file():
            return directory / name
    found = "There is no such directory."
    if directory.is_dir():
        names = sorted(path.name for path in directory.iterdir())
        found = f"It holds {', '.join(names[:20]) or 'nothing'}."
        if any(name.endswith((".bin", ".pt", ".pth")) for name in names):
            found += (
                " Pickled weights are not read: load them with transformers.CLIPModel "
                "and call save_pretrained, which writes model.safetensors."
            )
    raise ValueError(
        f"{directory}: no CLIP weights, looked for {_OPENAI_FILE} and "
        f"{_HUGGING_FACE_FILE}. {found} {_HOW_TO_GET}"
    )


def _unreadable(path: Path, error: SafetensorError) -> ValueError:
    return ValueError(
        f"{path}: not a whole safetensors file ({error}). It is {path.stat().st_size} "
        f"bytes long; was it cut off while copying? {_HOW_TO_GET}"
    )


def _read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(path, framework="np") as file:
            return {
                name: tuple(file.get_slice(name).get_shape()) for name in file.keys()
            }
    except SafetensorError as error:
        raise _unreadable(path, error) from error


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path}: missing beside the weights. {_HOW_TO_GET}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
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


def read_config(directory: str | Path) -> ClipConfig:
    """The sizes of the CLIP in a directory.

    Args:
        directory: With Hugging Face's or OpenAI's files, see the module's docstring.

    Raises:
        ValueError: If files are missing, broken, or of another kind of model.
    """
    path = _weights_file(Path(directory))
    shapes = _read_shapes(path)
    if _naming(path, shapes) is HUGGING_FACE:
        config = path.with_name("config.json")
        return from_config_json(_read_json(config), str(config))
    settings = path.with_name("open_clip_config.json")
    if settings.is_file():
        _check_quick_gelu(settings)
    return from_shapes(shapes, str(path))


def load_clip(
    directory: str | Path, *, image_size: int | None = None
) -> tuple[ClipConfig, dict[str, Any]]:
    """Reads a CLIP.

    Args:
        directory: With Hugging Face's or OpenAI's files, see the module's docstring.
        image_size: Side in pixels the model is to take; position embeddings are
            interpolated where it differs from the file's.

    Returns:
        The sizes, and the variables as float32 numpy arrays.

    Raises:
        WeightMismatchError: If the tensors are not exactly those of the model.
        ValueError: If files are missing, broken, or of another kind of model.
    """
    config = read_config(directory)
    path = _weights_file(Path(directory))
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise _unreadable(path, error) from error
    variables = from_tensors(tensors, config, _naming(path, tensors), str(path))
    if image_size is not None and image_size != config.vision.image_size:
        config = replace(config, vision=replace(config.vision, image_size=image_size))
        visual = variables["params"]["visual"]
        owner = visual.get("attnpool", visual)
        owner["positional_embedding"] = interpolate_positions(
            owner["positional_embedding"], image_size // config.vision.stride
        )
    return config, variables


def save_clip(
    directory: str | Path,
    config: ClipConfig,
    variables: Mapping[str, Any],
    *,
    dtype: Literal["float16", "bfloat16", "float32"] = "float16",
) -> None:
    """Writes a CLIP so that `load_clip` and the PyTorch world can read it.

    A ViT goes under Hugging Face's names with a `config.json`, for
    `transformers.CLIPModel.from_pretrained`. A ResNet, which that class lacks, goes
    under OpenAI's names into `open_clip_model.safetensors`; its heads are read back as
    64 wide.

    Args:
        directory: Made if need be.
        config: Sizes.
        variables: Those of `Clip(config)`.
        dtype: That of the tensors; OpenAI's own files are float16.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if config.vision.kind == "vit":
        path, names = directory / _HUGGING_FACE_FILE, HUGGING_FACE
        content = json.dumps(to_config_json(config, dtype), indent=2) + "\n"
        (directory / "config.json").write_text(content, encoding="utf-8")
    else:
        path, names = directory / _OPENAI_FILE, OPENAI
    tensors = to_tensors(variables, names, jnp.dtype(dtype))
    save_file(tensors, path, metadata={"format": "pt"})
