"""CLIP on disk: published weights in, trained weights out.

A source is a directory with Hugging Face's files (`config.json`, `model.safetensors`,
whole or in shards), one with tensors under OpenAI's names
(`open_clip_model.safetensors`), a hub id of either, or a single file: safetensors, a
PyTorch checkpoint (the authors' CVLP) or OpenAI's TorchScript. Where the names are
OpenAI's, the shapes show the sizes, and `open_clip_config.json` what shapes do not:
the activation and the heads. Without it these are asked for.
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
from vl_ltr_jax.models.port import hub, open_clip, vl_ltr_files
from vl_ltr_jax.models.port.names import (
    HUGGING_FACE,
    OPENAI,
    Names,
    batch_counters,
    from_tensors,
    to_tensors,
)
from vl_ltr_jax.models.port.positions import resize_tower
from vl_ltr_jax.models.port.preprocessing import (
    Preprocessing,
    from_open_clip,
    from_processor_json,
    to_preprocessor_json,
)
from vl_ltr_jax.models.port.sizes import (
    Details,
    ModelFileError,
    from_config_json,
    from_shapes,
    to_config_json,
)
from vl_ltr_jax.models.port.tensor_files import (
    is_tensor_file,
    read_shapes,
    read_tensors,
)
from vl_ltr_jax.storage import strict_json

Dtype = Literal["float16", "bfloat16", "float32"]
_HUGGING_FACE_FILE = "model.safetensors"
_OPENAI_FILE = "open_clip_model.safetensors"
# open_clip's file first: beside it, model.safetensors may be the image tower alone.
_FILES = (
    _OPENAI_FILE,
    _HUGGING_FACE_FILE,
    f"{_HUGGING_FACE_FILE}.index.json",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)
# Of a directory of transformers 5 and of older ones; it looks into them in this order.
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
# A buffer that OpenAI's own archives have, and no state dict saved later.
_ARCHIVE_MARK = "input_resolution"
_HOW_TO_GET = (
    "Where there is a network, `hf download openai/clip-vit-base-patch16 --local-dir "
    "DIR` gets ViT-B/16 and `hf download timm/resnet50_clip.openai --local-dir DIR` "
    "RN50."
)


class UnknownActivationError(ModelFileError):
    """Weights without a word about the activation they were trained with."""


@dataclass(frozen=True)
class ClipFile:
    """A CLIP on disk, of which no tensor has been read.

    Attributes:
        path: The file of tensors.
        names: The family of its names.
        config: Sizes.
        preprocessing: From a picture to its pixels; None where no file says it.
        notes: A sentence for each fact that is assumed.
    """

    path: Path
    names: Names
    config: ClipConfig
    preprocessing: Preprocessing | None = None
    notes: tuple[str, ...] = ()


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
    raise ModelFileError(
        f"{source}: no CLIP weights, looked for {', '.join(_FILES)}. {found} "
        f"{_HOW_TO_GET}"
    )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ModelFileError(f"{path}: missing beside the weights. {_HOW_TO_GET}")
    try:
        content = strict_json.parse(path.read_bytes())
    except ValueError as error:
        raise ModelFileError(f"{path}: not JSON: {error}. {_HOW_TO_GET}") from error
    if not isinstance(content, dict):
        raise ModelFileError(f"{path}: holds a {type(content).__name__}, not an object")
    return content


def _naming(path: Path, names: Mapping[str, Any]) -> Names:
    """The family of names in a file."""
    if vl_ltr_files.kind_of(names) == "LGR":
        raise ModelFileError(
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
    raise ModelFileError(
        f"{path}: its tensors bear neither OpenAI's names (token_embedding.weight, "
        f"...) nor Hugging Face's (text_model., vision_model.) but "
        f"{', '.join(list(names)[:3])}, ...{hint} {_HOW_TO_GET}"
    )


def find_clip(
    source: str | Path,
    *,
    activation: Activation | None = None,
    head_width: int | None = None,
) -> ClipFile:
    """Finds a CLIP and everything about it that is not a tensor.

    Args:
        source: See the module's docstring.
        activation: Of the MLPs, where no file beside the weights says it.
        head_width: Of the image tower's heads, where no file says it.

    Raises:
        UnknownActivationError: If no file says the activation, and it is not given.
        ModelFileError: If files are missing, broken, of another kind of model, or say
            something else than the arguments.
    """
    path = find_weights(source)
    shapes = read_shapes(path)
    names = _naming(path, shapes)
    settings, file = path.with_name(open_clip.SETTINGS), path.with_name("config.json")
    if names is HUGGING_FACE or (not settings.is_file() and _is_clips(file)):
        config = from_config_json(_read_json(file), str(file))
        vision = config.vision
        for tower in (vision, config.text):
            _check_agreement(file, "activation", activation, tower.activation)
        _check_agreement(file, "head_width", head_width, vision.width // vision.heads)
        return ClipFile(path, names, config, _processor(path, vision.image_size))
    if settings.is_file():
        return _of_open_clip(path, shapes, settings, activation, head_width)
    return _of_lone_file(path, shapes, activation, head_width)


def _is_clips(config_json: Path) -> bool:
    """Tells a `config.json` of `transformers.CLIPModel` from any other."""
    return config_json.is_file() and _read_json(config_json).get("model_type") == "clip"


def _of_lone_file(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    activation: Activation | None,
    head_width: int | None,
) -> ClipFile:
    """A model under OpenAI's names with nothing beside it that describes it."""
    if _ARCHIVE_MARK in shapes:
        _check_agreement(path, "activation", activation, "quick_gelu")
        _check_agreement(path, "head_width", head_width, 64)
        config = from_shapes(shapes, str(path))
        pixels = _processor(path, config.vision.image_size)
        pixels = pixels or Preprocessing(config.vision.image_size)
        return ClipFile(path, OPENAI, config, pixels)
    if activation is None:
        raise UnknownActivationError(
            f"{path}: neither its tensors nor an {open_clip.SETTINGS} beside it say "
            "the activation. Set --activation, in a run init.activation, to "
            "'quick_gelu' (OpenAI's, VL-LTR's, DFN's, MetaCLIP's weights) or 'gelu' "
            "(LAION's, DataComp's)"
        )
    config = from_shapes(shapes, str(path), Details(activation, head_width))
    vision, text = config.vision, config.text
    pixels = _processor(path, vision.image_size)
    if head_width is not None:
        return ClipFile(path, OPENAI, config, pixels)
    note = (
        f"{path}: no file beside it says how many attention heads there are; taken are "
        f"{vision.heads} for images and {text.heads} for texts, as in published models "
        "of these widths. --head_width, in a run init.head_width, names another width"
    )
    return ClipFile(path, OPENAI, config, pixels, (note,))


def _of_open_clip(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    settings: Path,
    activation: Activation | None,
    head_width: int | None,
) -> ClipFile:
    """A model under OpenAI's names with open_clip's file beside it."""
    source, content = str(settings), _read_json(settings)
    model, pixels = content.get("model_cfg"), content.get("preprocess_cfg") or {}
    if not isinstance(model, dict) or not isinstance(pixels, dict):
        raise ModelFileError(
            f"{source}: model_cfg or preprocess_cfg is no object. {_HOW_TO_GET}"
        )
    details, has_activation = open_clip.details(model, source)
    if has_activation:
        _check_agreement(settings, "activation", activation, details.activation)
    elif activation is not None:
        details = replace(details, activation=activation)
    _check_agreement(settings, "head_width", head_width, details.head_width)
    config = from_shapes(shapes, str(path), details)
    open_clip.check_sizes(model, config, source)
    size = config.vision.image_size
    notes: tuple[str, ...] = ()
    vision = model["vision_cfg"]
    if vision.get("image_size", size) not in (size, [size, size]):
        notes = (
            f"{source}: image_size is no whole number of patches of "
            f"{config.vision.stride} pixels; the model sees {size}",
        )
    return ClipFile(path, OPENAI, config, from_open_clip(pixels, size, source), notes)


def _check_agreement(path: Path, flag: str, value: Any, written: Any) -> None:
    if value not in (None, written):
        raise ModelFileError(
            f"--{flag}={value}: {path} says {written}. Leave the flag out, or correct "
            "the file"
        )


def _processor(path: Path, image_size: int) -> Preprocessing | None:
    """Hugging Face's description of the pixels, if one lies beside the weights."""
    for name in PROCESSOR_FILES:
        file = path.with_name(name)
        content = _read_json(file) if file.is_file() else {}
        if name == PROCESSOR_FILES[0]:
            content = content.get("image_processor") or {}
        if content:
            return from_processor_json(content, image_size, str(file))
    return None


def read_config(source: str | Path) -> ClipConfig:
    """The sizes of the CLIP in a source; errors as those of `find_clip`."""
    return find_clip(source).config


def load_clip(
    source: str | Path,
    *,
    image_size: int | None = None,
    activation: Activation | None = None,
    head_width: int | None = None,
) -> tuple[ClipConfig, dict[str, Any]]:
    """Reads a CLIP, and warns of what is assumed.

    Args:
        source: See the module's docstring.
        image_size: Side in pixels the model is to take; position embeddings are
            interpolated where it differs from the file's.
        activation: As `find_clip`.
        head_width: As `find_clip`.

    Returns:
        The sizes, and the variables as float32 numpy arrays.

    Raises:
        WeightMismatchError: If the tensors are not exactly those of the model.
        ModelFileError: As `find_clip`.
    """
    found = find_clip(source, activation=activation, head_width=head_width)
    for note in found.notes:
        console.warn(note)
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
    preprocessing: Preprocessing | None = None,
) -> None:
    """Writes a CLIP so that `load_clip` and the PyTorch world can read it.

    Under Hugging Face's names, with a `config.json`, it opens in
    `transformers.CLIPModel.from_pretrained`; under OpenAI's in open_clip, with an
    `open_clip_config.json`.

    Args:
        directory: Made if need be.
        config: Sizes.
        variables: Those of `Clip(config)`.
        dtype: That of the tensors; OpenAI's own files are float16.
        names: `HUGGING_FACE` or `OPENAI`; if None, the first for a ViT, the second
            for a ResNet.
        preprocessing: From a picture to pixels; if None, that of OpenAI's CLIP in
            open_clip's file, and no file of Hugging Face's.

    Raises:
        ModelFileError: If Hugging Face's names are asked for a ResNet, which
            `transformers` lacks, or OpenAI's for two activations.
    """
    vit = config.vision.kind == "vit"
    names = names or (HUGGING_FACE if vit else OPENAI)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tensors = to_tensors(variables, names, jnp.dtype(dtype))
    path = directory / _OPENAI_FILE
    if names is HUGGING_FACE:
        if not vit:
            raise ModelFileError(
                "transformers.CLIPModel has no ResNet tower: --to openai writes it for "
                "open_clip and OpenAI's code"
            )
        path = directory / _HUGGING_FACE_FILE
        content = json.dumps(to_config_json(config, dtype), indent=2) + "\n"
        (directory / "config.json").write_text(content, encoding="utf-8")
        if preprocessing is not None:
            text = to_preprocessor_json(preprocessing)
            (directory / PROCESSOR_FILES[1]).write_text(text, encoding="utf-8")
    else:
        pixels = preprocessing or Preprocessing(config.vision.image_size)
        content = open_clip.to_json(config, pixels)
        (directory / open_clip.SETTINGS).write_text(content, encoding="utf-8")
    save_file(tensors | batch_counters(tensors), path, metadata={"format": "pt"})


# Files that a tokenizer reads, copied beside converted weights.
TOKENIZER_FILES = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
