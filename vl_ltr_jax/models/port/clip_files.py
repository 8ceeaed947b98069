"""CLIP on disk: published weights in, trained weights out.

A source is one of these:

- a directory with Hugging Face's files: `config.json`, and `model.safetensors` in one
  file or in shards;
- a directory with tensors under OpenAI's names: `open_clip_model.safetensors`;
- a hub id of either;
- a single file: safetensors, a PyTorch checkpoint (the authors' CVLP) or OpenAI's
  TorchScript.

Under OpenAI's names the shapes show the sizes, and `open_clip_config.json` what shapes
do not: the activation and the heads. A file alone needs them as arguments.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from vl_ltr_jax.logs import console
from vl_ltr_jax.models.clip import ClipConfig, variable_shapes
from vl_ltr_jax.models.layers import Activation
from vl_ltr_jax.models.port import hub, open_clip, sizes, vl_ltr_files
from vl_ltr_jax.models.port import preprocessing as pixels
from vl_ltr_jax.models.port.names import (
    HUGGING_FACE,
    OPENAI,
    Names,
    batch_counters,
    from_tensors,
    to_tensors,
)
from vl_ltr_jax.models.port.positions import resize_tower
from vl_ltr_jax.models.port.preprocessing import Preprocessing
from vl_ltr_jax.models.port.sizes import Details, ModelFileError
from vl_ltr_jax.models.port.tensor_files import (
    is_tensor_file,
    read_shapes,
    read_tensors,
)
from vl_ltr_jax.storage import strict_json

Dtype = Literal["float16", "bfloat16", "float32"]
_HUGGING_FACE_FILE = "model.safetensors"
_OPENAI_FILE = "open_clip_model.safetensors"
# open_clip's file first: model.safetensors next to it may be the image tower alone.
_FILES = (
    _OPENAI_FILE,
    _HUGGING_FACE_FILE,
    f"{_HUGGING_FACE_FILE}.index.json",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)
# Of transformers 5 and of older ones; it looks into them in this order.
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
# Files of a tokenizer, copied next to converted weights.
TOKENIZER_FILES = (
    *("vocab.json", "merges.txt", "tokenizer.json"),
    *("tokenizer_config.json", "special_tokens_map.json"),
)
# A buffer that OpenAI's own archives have, and no state dict saved later.
_ARCHIVE_MARK = "input_resolution"
_HOW_TO_GET = (
    "With a network, `hf download openai/clip-vit-base-patch16 --local-dir DIR` gets "
    "ViT-B/16 and `hf download timm/resnet50_clip.openai --local-dir DIR` RN50."
)


class UnknownActivationError(ModelFileError):
    """Weights without a statement of the activation they were trained with."""


@dataclass(frozen=True)
class ClipFile:
    """Facts about a CLIP on disk, without its tensors.

    Attributes:
      path: file of the tensors.
      names: family of their names.
      config: sizes.
      preprocessing: from a picture to its pixels; None where no file describes it.
      notes: a sentence for each assumption.
    """

    path: Path
    names: Names
    config: ClipConfig
    preprocessing: Preprocessing | None = None
    notes: tuple[str, ...] = ()


def find_weights(source: str | Path) -> Path:
    """Returns the file of tensors of a source.

    Raises:
      ModelFileError: the source has no such file.
    """
    path = hub.local_path(str(source))
    if path.is_file() and is_tensor_file(path):
        return path
    for name in _FILES:
        if (path / name).is_file():
            return path / name
    content = "There is no such file or directory."
    if path.is_dir():
        names = sorted(file.name for file in path.iterdir())
        content = f"It holds {', '.join(names[:20]) or 'nothing'}."
        if any(is_tensor_file(Path(name)) for name in names):
            content += " If one of these is the CLIP, name the file itself."
    elif path.is_file():
        content = "It is a file of another kind."
    raise ModelFileError(
        f"{source}: no CLIP weights, looked for {', '.join(_FILES)}. {content} "
        f"{_HOW_TO_GET}"
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = strict_json.parse(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__}")
    except FileNotFoundError as error:
        raise ModelFileError(
            f"{path}: missing next to the weights. {_HOW_TO_GET}"
        ) from error
    except ValueError as error:
        raise ModelFileError(
            f"{path}: not a JSON object: {error}. {_HOW_TO_GET}"
        ) from error
    return content


def _family(path: Path, names: Mapping[str, Any]) -> Names:
    """Returns the family of the names in a file."""
    if vl_ltr_files.kind_of(names) == "LGR":
        raise ModelFileError(
            f"{path}: an LGR checkpoint of VL-LTR, which has no text tower. "
            f"--config.init.vl_ltr={path} evaluates it"
        )
    if "token_embedding.weight" in names:
        return OPENAI
    if any(name.startswith(("text_model.", "vision_model.")) for name in names):
        return HUGGING_FACE
    hint = ""
    if any(name.startswith(("stem.", "blocks.", "patch_embed.")) for name in names):
        hint = " These are timm's names, of an image tower alone."
    raise ModelFileError(
        f"{path}: its tensors have neither OpenAI's names (token_embedding.weight, "
        f"...) nor Hugging Face's (text_model., vision_model.) but "
        f"{', '.join(list(names)[:3])}, ...{hint} {_HOW_TO_GET}"
    )


def find_clip(
    source: str | Path,
    activation: Activation | None = None,
    head_width: int | None = None,
) -> ClipFile:
    """Returns everything about a CLIP that is not a tensor.

    Args:
      source: see the module's docstring.
      activation: activation of the MLPs, where no file states it.
      head_width: width of the image tower's heads, where no file states it.

    Raises:
      UnknownActivationError: neither a file nor the argument states the activation.
      ModelFileError: files are missing, damaged, of another kind of model, or
        contradict the arguments.
    """
    path = find_weights(source)
    shapes = read_shapes(path)
    names = _family(path, shapes)
    settings, file = path.with_name(open_clip.SETTINGS), path.with_name("config.json")
    if names is HUGGING_FACE or (not settings.is_file() and _is_clips(file)):
        config = sizes.from_config_json(_read_json(file), str(file))
        vision = config.vision
        for tower in (vision, config.text):
            _check_agreement(file, "activation", activation, tower.activation)
        _check_agreement(file, "head_width", head_width, vision.width // vision.heads)
        return ClipFile(path, names, config, _processor(path, vision.image_size))
    if settings.is_file():
        return _from_open_clip(path, shapes, settings, activation, head_width)
    return _from_lone_file(path, shapes, activation, head_width)


def _is_clips(config_json: Path) -> bool:
    """Returns True for the `config.json` of a `transformers.CLIPModel`."""
    return config_json.is_file() and _read_json(config_json).get("model_type") == "clip"


def _from_lone_file(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    activation: Activation | None,
    head_width: int | None,
) -> ClipFile:
    """Describes a model under OpenAI's names without a file that describes it."""
    is_archive = _ARCHIVE_MARK in shapes
    if is_archive:
        _check_agreement(path, "activation", activation, "quick_gelu")
        _check_agreement(path, "head_width", head_width, 64)
        activation, head_width = "quick_gelu", 64
    if activation is None:
        raise UnknownActivationError(
            f"{path}: neither its tensors nor an {open_clip.SETTINGS} state the "
            "activation. Set --activation, in a run init.activation, to 'quick_gelu' "
            "(OpenAI's, VL-LTR's, DFN's, MetaCLIP's weights) or 'gelu' (LAION's, "
            "DataComp's)"
        )
    config = sizes.from_shapes(shapes, str(path), Details(activation, head_width))
    vision, text = config.vision, config.text
    processor = _processor(path, vision.image_size)
    if is_archive:
        processor = processor or Preprocessing(vision.image_size)
    notes: tuple[str, ...] = ()
    if head_width is None:
        notes = (
            f"{path}: no file states the number of attention heads. Assumed are "
            f"{vision.heads} for images and {text.heads} for texts, as in published "
            "models of these widths. --head_width, in a run init.head_width, names "
            "another width",
        )
    return ClipFile(path, OPENAI, config, processor, notes)


def _from_open_clip(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    settings: Path,
    activation: Activation | None,
    head_width: int | None,
) -> ClipFile:
    """Describes a model under OpenAI's names by open_clip's file."""
    source, content = str(settings), _read_json(settings)
    model, preprocess = content.get("model_cfg"), content.get("preprocess_cfg") or {}
    if not isinstance(model, dict) or not isinstance(preprocess, dict):
        raise ModelFileError(
            f"{source}: model_cfg or preprocess_cfg is no object. {_HOW_TO_GET}"
        )
    details, has_activation = open_clip.details(model, source)
    if has_activation:
        _check_agreement(settings, "activation", activation, details.activation)
    elif activation is not None:
        details = replace(details, activation=activation)
    _check_agreement(settings, "head_width", head_width, details.head_width)
    config = sizes.from_shapes(shapes, str(path), details)
    open_clip.check_sizes(model, config, source)
    side = config.vision.image_size
    notes: tuple[str, ...] = ()
    vision = model["vision_cfg"]
    if vision.get("image_size", side) not in (side, [side, side]):
        notes = (
            f"{source}: image_size is no multiple of the patch, {config.vision.stride} "
            f"pixels; the model sees {side}",
        )
    processor = pixels.from_open_clip(preprocess, side, source)
    return ClipFile(path, OPENAI, config, processor, notes)


def _check_agreement(path: Path, flag: str, value: Any, stated: Any) -> None:
    if value not in (None, stated):
        raise ModelFileError(
            f"--{flag}={value}: {path} states {stated}. Omit the flag, or correct the "
            "file"
        )


def _processor(path: Path, image_size: int) -> Preprocessing | None:
    """Returns Hugging Face's description of the pixels, if there is one."""
    for name in PROCESSOR_FILES:
        file = path.with_name(name)
        content = _read_json(file) if file.is_file() else {}
        if name == PROCESSOR_FILES[0]:
            content = content.get("image_processor") or {}
        if content:
            return pixels.from_processor_json(content, image_size, str(file))
    return None


def load_clip(
    source: str | Path,
    *,
    image_size: int | None = None,
    activation: Activation | None = None,
    head_width: int | None = None,
) -> tuple[ClipConfig, dict[str, Any]]:
    """Reads a CLIP, and warns of every assumption.

    Args:
      source: see the module's docstring.
      image_size: side in pixels; at another than the file's, position embeddings are
        interpolated.
      activation: see :func:`find_clip`.
      head_width: see :func:`find_clip`.

    Returns:
      The sizes, and the variables as float32 numpy arrays.

    Raises:
      WeightMismatchError: the tensors are not exactly those of the model.
      ModelFileError: see :func:`find_clip`.
    """
    file = find_clip(source, activation, head_width)
    for note in file.notes:
        console.warn(note)
    return from_file(file, read_tensors(file.path), image_size=image_size)


def from_file(
    file: ClipFile,
    tensors: Mapping[str, np.ndarray],
    *,
    image_size: int | None = None,
) -> tuple[ClipConfig, dict[str, Any]]:
    """Returns the result of :func:`load_clip` from tensors in memory."""
    config = file.config
    variables = from_tensors(
        tensors, variable_shapes(config), file.names, str(file.path)
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
    preprocessing: Preprocessing | None = None,
) -> None:
    """Writes a CLIP that `load_clip` and programs in PyTorch can read.

    Hugging Face's names, with a `config.json`, are for `transformers.CLIPModel`;
    OpenAI's, with an `open_clip_config.json`, for open_clip.

    Args:
      directory: created if need be.
      config: sizes.
      variables: those of `Clip(config)`.
      dtype: dtype of the tensors; OpenAI's own files are float16.
      names: `HUGGING_FACE` or `OPENAI`; if None, the first for a ViT, the second for a
        ResNet.
      preprocessing: from a picture to pixels. If None, open_clip's file has that of
        OpenAI's CLIP, and Hugging Face's file is not written.

    Raises:
      ModelFileError: the names are Hugging Face's and the model a ResNet, which
        `transformers` lacks, or OpenAI's and the towers have two activations.
    """
    is_vit = config.vision.kind == "vit"
    names = names or (HUGGING_FACE if is_vit else OPENAI)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tensors = to_tensors(variables, names, jnp.dtype(dtype))
    files = {}
    if names is HUGGING_FACE:
        if not is_vit:
            raise ModelFileError(
                "--to=hf: transformers.CLIPModel has no ResNet tower. --to openai "
                "writes it for open_clip and OpenAI's code"
            )
        content = sizes.to_config_json(config, dtype)
        files["config.json"] = json.dumps(content, indent=2) + "\n"
        if preprocessing is not None:
            files[PROCESSOR_FILES[1]] = pixels.to_preprocessor_json(preprocessing)
    else:
        preprocessing = preprocessing or Preprocessing(config.vision.image_size)
        files[open_clip.SETTINGS] = open_clip.to_json(config, preprocessing)
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")
    path = directory / (_HUGGING_FACE_FILE if names is HUGGING_FACE else _OPENAI_FILE)
    save_file(tensors | batch_counters(tensors), path, metadata={"format": "pt"})
