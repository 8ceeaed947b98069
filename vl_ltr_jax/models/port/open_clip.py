"""open_clip's description of a model, `open_clip_config.json`, read and written.

What is built here is read, what has no effect on embeddings is left out, and all else
is refused by its name: a tower of another kind gives other embeddings in silence.
"""

import json
import math
from collections.abc import Collection, Mapping
from typing import Any

from vl_ltr_jax.logs.messages import shortened
from vl_ltr_jax.models.clip import ClipConfig, TextConfig, VisionConfig
from vl_ltr_jax.models.layers import Activation
from vl_ltr_jax.models.port.preprocessing import Preprocessing, to_open_clip
from vl_ltr_jax.models.port.sizes import Details, ModelFileError

SETTINGS = "open_clip_config.json"
_HEAD_WIDTH, _TEXT_HEADS = 64, 8  # where open_clip's file says nothing
_OFF = (None, False)
_NO_ARGUMENTS: tuple[Any, ...] = (None, {})
# Keys of both towers that change the function: the values that are built here.
_BLOCK = {
    "ls_init_value": _OFF,
    "act_kwargs": _NO_ARGUMENTS,
    "norm_kwargs": _NO_ARGUMENTS,
    "block_type": (None, "default"),
    "final_ln_after_pool": _OFF,
    "qk_norm": _OFF,
    "scaled_cosine_attn": _OFF,
    "scale_heads": _OFF,
    "scale_attn_inner": _OFF,
    "scale_attn": _OFF,
    "scale_fc": _OFF,
}
_FIXED: dict[str, dict[str, Collection[Any]]] = {
    "": {
        "init_logit_bias": (None,),
        "nonscalar_logit_scale": _OFF,
        "multimodal_cfg": (None,),
    },
    "vision_cfg": {
        **_BLOCK,
        "attentional_pool": _OFF,
        "no_ln_pre": _OFF,
        "input_patchnorm": _OFF,
        "global_average_pool": _OFF,
        "pos_embed_type": ("learnable",),
        "pool_type": ("tok",),
        "timm_model_name": (None, ""),
    },
    "text_cfg": {
        **_BLOCK,
        "embed_cls": _OFF,
        "no_causal_mask": _OFF,
        "pool_type": ("argmax",),
        "proj_bias": _OFF,
        "proj_type": ("linear",),
        "hf_model_name": (None, ""),
        "hf_tokenizer_name": (None, ""),
        "tokenizer_mode": (None,),
        "tokenizer_kwargs": _NO_ARGUMENTS,
    },
}
# Read, or without effect on embeddings: of training, of another tower's, of padding.
_KNOWN: dict[str, Collection[str]] = {
    "": (
        *("embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text"),
        *("init_logit_scale", "cast_dtype", "output_dict"),
    ),
    "vision_cfg": (
        *("image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio"),
        *("patch_dropout", "output_tokens", "attn_pooler_queries", "n_queries"),
        *("attn_pooler_heads", "timm_model_pretrained", "timm_pool", "timm_proj"),
        *("timm_proj_bias", "timm_drop", "timm_drop_path"),
    ),
    "text_cfg": (
        *("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"),
        *("pad_id", "eos_id", "output_tokens"),
        *("hf_model_pretrained", "hf_proj_type", "hf_pooler_type"),
    ),
}


def details(model: Mapping[str, Any], source: str) -> tuple[Details, bool]:
    """Facts that tensors do not show, and whether the activation is written there.

    Without `quick_gelu` it is open_clip's default, the exact GELU.

    Args:
        model: `model_cfg` of the file.
        source: Path of the file, for errors.

    Raises:
        ModelFileError: If the model is of a kind that is not built here.
    """
    sections = {"": model} | {
        name: _section(model, name, source) for name in ("vision_cfg", "text_cfg")
    }
    for name, section in sections.items():
        for key, value in section.items():
            if key in _FIXED[name] and value not in _FIXED[name][key]:
                built = " or ".join(map(repr, _FIXED[name][key]))
                raise ModelFileError(
                    f"{source}: {_where(name, key)} is {shortened(value)}; built "
                    f"here is {built}. Name a model of OpenAI's towers"
                )
            if key not in _FIXED[name] and key not in _KNOWN[name]:
                raise ModelFileError(
                    f"{source}: {_where(name, key)} is unknown here, and may change "
                    "the model. Take the key out if it has no effect on embeddings"
                )
    quick = model.get("quick_gelu", False)
    if type(quick) is not bool:
        raise ModelFileError(
            f"{source}: model_cfg.quick_gelu is {shortened(quick)}, not true or false. "
            "Correct it"
        )
    vision, text = sections["vision_cfg"], sections["text_cfg"]
    activation: Activation = "quick_gelu" if quick else "gelu"
    found = Details(
        activation,
        _count(vision.get("head_width", _HEAD_WIDTH), "vision_cfg.head_width", source),
        _count(text.get("heads", _TEXT_HEADS), "text_cfg.heads", source),
    )
    return found, "quick_gelu" in model


def check_sizes(model: Mapping[str, Any], config: ClipConfig, source: str) -> None:
    """Compares the sizes in the file with those of the tensors.

    Raises:
        ModelFileError: Naming the first size that differs.
    """
    towers: dict[str, VisionConfig | TextConfig] = {
        "vision_cfg": config.vision,
        "text_cfg": config.text,
    }
    for name, sizes in _sizes(config).items():
        section = model[name] if name else model
        for key, size in sizes.items():
            value = section.get(key, size)
            if not _agrees(key, value, size, towers.get(name)):
                raise ModelFileError(
                    f"{source}: {_where(name, key)} is {shortened(value)}, but the "
                    f"tensors beside it have {size}. Put the file of this model there"
                )


def _agrees(
    key: str, value: Any, size: Any, tower: VisionConfig | TextConfig | None
) -> bool:
    if key == "image_size" and isinstance(tower, VisionConfig):
        sides = value if isinstance(value, list) else [value]
        # DFN's says 384 for patches of 14: open_clip leaves out the last 6 pixels.
        return bool(sides) and all(
            type(side) is int and 0 <= side - size < tower.stride for side in sides
        )
    if key == "mlp_ratio" and tower is not None and type(value) in (int, float):
        return int(tower.width * value) == tower.mlp_width
    return bool(value == size)


def _where(section: str, key: str) -> str:
    return ".".join(filter(None, ("model_cfg", section, key)))


def to_json(config: ClipConfig, preprocessing: Preprocessing) -> str:
    """The text of an `open_clip_config.json`.

    Raises:
        ModelFileError: If the towers have different activations, as no model of
            open_clip has.
    """
    activation = config.text.activation
    if config.vision.kind == "vit" and config.vision.activation != activation:
        raise ModelFileError(
            f"the towers have {config.vision.activation} and {activation}; a model "
            "under OpenAI's names has one activation, --to hf keeps both"
        )
    sizes = _sizes(config)
    model = {
        **sizes[""],
        "quick_gelu": activation == "quick_gelu",
        "vision_cfg": sizes["vision_cfg"],
        "text_cfg": sizes["text_cfg"],
    }
    content = {"model_cfg": model, "preprocess_cfg": to_open_clip(preprocessing)}
    return json.dumps(content, indent=2) + "\n"


def _sizes(config: ClipConfig) -> dict[str, dict[str, Any]]:
    """Every size by section and key."""
    vision, text = config.vision, config.text
    is_vit = vision.kind == "vit"
    whole = vision.width if is_vit else 32 * vision.width
    layers = vision.layers if isinstance(vision.layers, int) else list(vision.layers)
    return {
        "": {"embed_dim": config.embed_dim},
        "vision_cfg": {
            "image_size": vision.image_size,
            "layers": layers,
            "width": vision.width,
            "head_width": whole // vision.heads,
            "patch_size": vision.patch_size,
            **({"mlp_ratio": _ratio(vision)} if is_vit else {}),
        },
        "text_cfg": {
            "context_length": text.context_length,
            "vocab_size": text.vocab_size,
            "width": text.width,
            "heads": text.heads,
            "layers": text.layers,
            "mlp_ratio": _ratio(text),
        },
    }


def _ratio(tower: VisionConfig | TextConfig) -> float:
    """The MLP's width in widths: open_clip rounds the product down."""
    return math.ceil(1e4 * tower.mlp_width / tower.width) / 1e4


def _section(model: Mapping[str, Any], name: str, source: str) -> Mapping[str, Any]:
    section = model.get(name)
    if not isinstance(section, dict):
        raise ModelFileError(
            f"{source}: model_cfg.{name} is {shortened(section)}, not an object. Put "
            "the file of this model there"
        )
    return section


def _count(value: Any, key: str, source: str) -> int:
    if type(value) is not int or value < 1:
        raise ModelFileError(
            f"{source}: model_cfg.{key} is {shortened(value)}, not a positive integer. "
            "Correct it"
        )
    return value
