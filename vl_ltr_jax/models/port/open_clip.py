"""open_clip's description of a model, `open_clip_config.json`, read and written.

Settings that are built here are read, and those without effect on embeddings ignored.
Every other key is refused by its name: a tower of another kind would give other
embeddings in silence.
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
_HEAD_WIDTH, _TEXT_HEADS = 64, 8  # open_clip's defaults
_OFF = (None, False)
_NO_ARGUMENTS: tuple[Any, ...] = (None, {})
# Keys that change the function, with the values that are built here.
_BLOCK: dict[str, Collection[Any]] = {
    "block_type": (None, "default"),
    **dict.fromkeys(("act_kwargs", "norm_kwargs"), _NO_ARGUMENTS),
    **dict.fromkeys(("ls_init_value", "final_ln_after_pool", "qk_norm"), _OFF),
    **dict.fromkeys(("scaled_cosine_attn", "scale_heads", "scale_attn_inner"), _OFF),
    **dict.fromkeys(("scale_attn", "scale_fc"), _OFF),
}
_FIXED: dict[str, dict[str, Collection[Any]]] = {
    "": {
        "nonscalar_logit_scale": _OFF,
        **dict.fromkeys(("init_logit_bias", "multimodal_cfg"), (None,)),
    },
    "vision_cfg": {
        **_BLOCK,
        **dict.fromkeys(("attentional_pool", "no_ln_pre", "input_patchnorm"), _OFF),
        "global_average_pool": _OFF,
        "pos_embed_type": ("learnable",),
        "pool_type": ("tok",),
        "timm_model_name": (None, ""),
    },
    "text_cfg": {
        **_BLOCK,
        **dict.fromkeys(("embed_cls", "no_causal_mask", "proj_bias"), _OFF),
        "pool_type": ("argmax",),
        "proj_type": ("linear",),
        **dict.fromkeys(("hf_model_name", "hf_tokenizer_name"), (None, "")),
        "tokenizer_mode": (None,),
        "tokenizer_kwargs": _NO_ARGUMENTS,
    },
}
# Read, or without effect on embeddings: for training, other towers or padding.
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
    """Returns facts that tensors do not show, and True if the file has `quick_gelu`.

    Without `quick_gelu` the activation is open_clip's default, the exact GELU.

    Args:
      model: `model_cfg` of the file.
      source: path of the file, for errors.

    Raises:
      ModelFileError: the model is of a kind that is not built here.
    """
    sections = {"": model} | {
        name: model.get(name) for name in ("vision_cfg", "text_cfg")
    }
    for name, section in sections.items():
        if not isinstance(section, dict):
            raise _error(source, name, "", section, "an object")
        for key, value in section.items():
            built = _FIXED[name].get(key, (value,))
            if value not in built:
                raise _error(source, name, key, value, " or ".join(map(repr, built)))
            if key not in _FIXED[name] and key not in _KNOWN[name]:
                raise ModelFileError(
                    f"{source}: {_dotted(name, key)} is unknown here, and may change "
                    "the model. Remove the key if it has no effect on embeddings"
                )
    quick = model.get("quick_gelu", False)
    if type(quick) is not bool:
        raise _error(source, "", "quick_gelu", quick, "true or false")
    activation: Activation = "quick_gelu" if quick else "gelu"
    heads = []
    for name, key, default in (
        ("vision_cfg", "head_width", _HEAD_WIDTH),
        ("text_cfg", "heads", _TEXT_HEADS),
    ):
        value = model[name].get(key, default)
        if type(value) is not int or value < 1:
            raise _error(source, name, key, value, "a positive integer")
        heads.append(value)
    return Details(activation, *heads), "quick_gelu" in model


def check_sizes(model: Mapping[str, Any], config: ClipConfig, source: str) -> None:
    """Compares the sizes in the file with those of the tensors.

    Raises:
      ModelFileError: a size differs; the message names the first.
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
                raise _error(source, name, key, value, f"{size} as in the tensors")


def _agrees(
    key: str, value: Any, size: Any, tower: VisionConfig | TextConfig | None
) -> bool:
    if key == "image_size" and isinstance(tower, VisionConfig):
        sides = value if isinstance(value, list) else [value]
        # DFN's file has 384 for patches of 14: open_clip ignores the last 6 pixels.
        return bool(sides) and all(
            type(side) is int and 0 <= side - size < tower.stride for side in sides
        )
    if key == "mlp_ratio" and tower is not None and type(value) in (int, float):
        return int(tower.width * value) == tower.mlp_width
    return bool(value == size)


def _dotted(section: str, key: str) -> str:
    return ".".join(filter(None, ("model_cfg", section, key)))


def _error(
    source: str, section: str, key: str, value: Any, built: str
) -> ModelFileError:
    return ModelFileError(
        f"{source}: {_dotted(section, key)} is {shortened(value)}, not {built}. "
        "Correct the file, or name a model with OpenAI's towers"
    )


def to_json(config: ClipConfig, preprocessing: Preprocessing) -> str:
    """Returns the text of an `open_clip_config.json`.

    Raises:
      ModelFileError: the towers have different activations, as no model of open_clip
        has.
    """
    activation = config.text.activation
    if config.vision.kind == "vit" and config.vision.activation != activation:
        raise ModelFileError(
            f"--to=openai: the towers have {config.vision.activation} and "
            f"{activation}, and OpenAI's form has one activation. --to hf keeps both"
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
    """Returns every size by section and key."""
    vision, text = config.vision, config.text
    is_vit = vision.kind == "vit"
    # A ResNet's last stage is 32 times as wide as its stem.
    attention_width = vision.width if is_vit else 32 * vision.width
    layers = vision.layers if isinstance(vision.layers, int) else list(vision.layers)
    return {
        "": {"embed_dim": config.embed_dim},
        "vision_cfg": {
            "image_size": vision.image_size,
            "layers": layers,
            "width": vision.width,
            "head_width": attention_width // vision.heads,
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
    """Returns the MLP's width in widths; open_clip rounds the product down."""
    return math.ceil(1e4 * tower.mlp_width / tower.width) / 1e4
