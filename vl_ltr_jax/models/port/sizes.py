"""Sizes of a CLIP, from a `config.json` or from the shapes of its tensors.

`transformers.CLIPConfig` would read the same file, but accepts any activation and any
end of text, and its import takes over a second.
"""

import contextlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vl_ltr_jax.logs.messages import shortened
from vl_ltr_jax.models.clip import RESNET_STRIDE, ClipConfig, TextConfig, VisionConfig
from vl_ltr_jax.models.layers import ACTIVATIONS, Activation
from vl_ltr_jax.runtime.errors import UserError

_HEAD_WIDTH = 64
# Published image towers of ViT-H, g and bigG by width; all others have 64.
_HEAD_WIDTHS = {1280: 80, 1408: 88, 1664: 104}
# A damaged file may have any number, and a model of that size takes hours to lay out.
_LARGEST, _MOST_LAYERS = 2**20, 256

# Key of config.json -> our field, and the value of a file without the key.
_BLOCKS = {
    "hidden_size": "width",
    "intermediate_size": "mlp_width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
}
_VISION = _BLOCKS | {"image_size": "image_size", "patch_size": "patch_size"}
_TEXT = _BLOCKS | {
    "max_position_embeddings": "context_length",
    "vocab_size": "vocab_size",
}
_VISION_DEFAULTS = dict(zip(_VISION, (768, 3072, 12, 12, 224, 32), strict=True))
_TEXT_DEFAULTS = dict(zip(_TEXT, (512, 2048, 12, 8, 77, 49408), strict=True))
_EMBED_DIM_DEFAULT = 512
_FIXED = dict(layer_norm_eps=1e-5, num_channels=3)
_OLD_END = 2  # old files have this for any end of text; they mean the largest id


class ModelFileError(UserError):
    """A file that describes no CLIP, or a CLIP that is not built here."""


@dataclass(frozen=True)
class Details:
    """Facts of a CLIP that the shapes of its tensors do not show.

    Attributes:
      activation: activation of the MLPs of both towers.
      head_width: width of the image tower's heads; None for that of published models.
      text_heads: number of heads of the text tower; None for its width / 64.
    """

    activation: Activation = "quick_gelu"
    head_width: int | None = None
    text_heads: int | None = None

    def vision_heads(self, width: int) -> int:
        """Returns the number of heads of an image tower of this width."""
        head_width = self.head_width or _HEAD_WIDTHS.get(width, _HEAD_WIDTH)
        if width % head_width:
            raise ModelFileError(
                f"the width {width} is not a multiple of the head width {head_width}"
            )
        return width // head_width


OPENAI_DETAILS = Details()


def _size(value: Any, key: str, source: str) -> int:
    largest = _MOST_LAYERS if key.endswith("num_hidden_layers") else _LARGEST
    if type(value) is not int or not 1 <= value <= largest:
        raise ModelFileError(
            f"{source}: {key} is {shortened(value)}, not an integer from 1 to "
            f"{largest}. Correct it"
        )
    return value


def _tower(
    content: Mapping[str, Any], name: str, defaults: dict[str, int], source: str
) -> tuple[dict[str, int], Activation]:
    """Returns the sizes of one tower by key, and its activation."""
    # Where old files have the second section, transformers ignores the first.
    section = name if content.get(f"{name}_dict") is None else f"{name}_dict"
    values = content.get(section) or {}
    if not isinstance(values, dict):
        raise ModelFileError(
            f"{source}: {section} is {shortened(values)}, not an object. Correct it"
        )
    sizes = {
        key: _size(values.get(key, default), f"{name}.{key}", source)
        for key, default in defaults.items()
    }
    allowed: dict[str, tuple[Any, ...]] = {k: (v,) for k, v in _FIXED.items()}
    allowed["hidden_act"] = tuple(ACTIVATIONS)
    if "vocab_size" in sizes:
        # A sentence's embedding is that of its largest id.
        allowed["eos_token_id"] = (sizes["vocab_size"] - 1, _OLD_END)
    for key, built in allowed.items():
        if values.get(key, built[0]) not in built:
            raise ModelFileError(
                f"{source}: {name}.{key} is {shortened(values[key])}; built here is "
                f"{' or '.join(map(repr, built))}. Name another model"
            )
    return sizes, values.get("hidden_act", "quick_gelu")


def from_config_json(content: Mapping[str, Any], source: str) -> ClipConfig:
    """Returns the sizes in Hugging Face's `config.json`.

    Args:
      content: parsed file.
      source: path of the file, for errors.

    Raises:
      ModelFileError: the file describes another kind of model, or impossible sizes.
    """
    if content.get("model_type") != "clip":
        raise ModelFileError(
            f"{source}: model_type is {shortened(content.get('model_type'))}, not "
            "'clip'. Name another model"
        )
    vision, vision_act = _tower(content, "vision_config", _VISION_DEFAULTS, source)
    text, text_act = _tower(content, "text_config", _TEXT_DEFAULTS, source)
    embed_dim = content.get("projection_dim", _EMBED_DIM_DEFAULT)
    embed_dim = _size(embed_dim, "projection_dim", source)
    vision_sizes: Any = {field: vision[key] for key, field in _VISION.items()}
    text_sizes: Any = {field: text[key] for key, field in _TEXT.items()}
    try:
        return ClipConfig(
            VisionConfig("vit", **vision_sizes, activation=vision_act),
            TextConfig(**text_sizes, activation=text_act),
            embed_dim,
        )
    except UserError as error:
        raise ModelFileError(f"{source}: {error}") from error


def to_config_json(config: ClipConfig, dtype: str) -> dict[str, Any]:
    """Returns the content of a `config.json` for `transformers.CLIPModel`.

    Args:
      config: sizes of a CLIP whose image tower is a ViT.
      dtype: name of the dtype of its tensors.
    """

    def tower(part: VisionConfig | TextConfig, fields: dict[str, str]) -> Any:
        sizes = {key: getattr(part, field) for key, field in fields.items()}
        return sizes | {
            "hidden_act": part.activation,
            "layer_norm_eps": _FIXED["layer_norm_eps"],
            "projection_dim": config.embed_dim,
        }

    vocab_size = config.text.vocab_size
    # Start and end of text are the last two ids; padding has no effect.
    ids = dict(bos_token_id=vocab_size - 2, eos_token_id=vocab_size - 1, pad_token_id=0)
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "dtype": dtype,
        "projection_dim": config.embed_dim,
        "text_config": tower(config.text, _TEXT) | ids,
        "vision_config": tower(config.vision, _VISION),
    }


def from_shapes(
    shapes: Mapping[str, tuple[int, ...]],
    source: str,
    details: Details = OPENAI_DETAILS,
) -> ClipConfig:
    """Returns the sizes that the shapes of OpenAI's state dict show.

    Args:
      shapes: name -> shape.
      source: path of the file, for errors.
      details: facts that shapes do not show.

    Raises:
      ModelFileError: a tensor that shows a size is missing or of another rank, or the
        sizes are impossible.
    """
    vision, _ = vision_from_shapes(shapes, source, details)
    with _naming(source):
        vocab_size, width = shapes["token_embedding.weight"]
        context_length, _ = shapes["positional_embedding"]
        _, embed_dim = shapes["text_projection"]
        text = TextConfig(
            width=width,
            layers=_count(shapes, "transformer.resblocks"),
            heads=details.text_heads or width // _HEAD_WIDTH,
            context_length=context_length,
            vocab_size=vocab_size,
            mlp_width=_mlp_width(shapes, "transformer.resblocks"),
            activation=details.activation,
        )
        return ClipConfig(vision, text, embed_dim)


def vision_from_shapes(
    shapes: Mapping[str, tuple[int, ...]],
    source: str,
    details: Details = OPENAI_DETAILS,
) -> tuple[VisionConfig, int]:
    """Returns the sizes of the image tower alone, and the width E of its embeddings.

    Arguments and errors are those of :func:`from_shapes`.
    """
    with _naming(source):
        if "visual.proj" in shapes:
            width, _, patch_size, _ = shapes["visual.conv1.weight"]
            positions, _ = shapes["visual.positional_embedding"]
            vision = VisionConfig(
                "vit",
                image_size=patch_size * math.isqrt(positions - 1),
                width=width,
                layers=_count(shapes, "visual.transformer.resblocks"),
                heads=details.vision_heads(width),
                patch_size=patch_size,
                mlp_width=_mlp_width(shapes, "visual.transformer.resblocks"),
                activation=details.activation,
            )
            return vision, shapes["visual.proj"][1]
        positions, width = shapes["visual.attnpool.positional_embedding"]
        vision = VisionConfig(
            "resnet",
            image_size=RESNET_STRIDE * math.isqrt(positions - 1),
            width=width // RESNET_STRIDE,
            layers=tuple(_count(shapes, f"visual.layer{k}") for k in (1, 2, 3, 4)),
            heads=width // (details.head_width or _HEAD_WIDTH),
        )
        return vision, shapes["visual.attnpool.c_proj.weight"][0]


def _mlp_width(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> int:
    """Returns the hidden width of the first block's MLP; 0 without that tensor."""
    return shapes.get(f"{prefix}.0.mlp.c_fc.weight", (0,))[0]


def _count(shapes: Mapping[str, Any], prefix: str) -> int:
    """Returns the number of blocks."""
    pattern = re.compile(rf"{re.escape(prefix)}\.\d+\.")
    return len({match[0] for name in shapes if (match := pattern.match(name))})


@contextlib.contextmanager
def _naming(source: str) -> Iterator[None]:
    """Turns errors into ModelFileErrors that name the file."""
    try:
        yield
    except KeyError as error:
        raise ModelFileError(
            f"{source}: tensor {error} is missing, which shows a size of the model. "
            "Download the file again"
        ) from error
    except (ValueError, IndexError) as error:
        raise ModelFileError(
            f"{source}: the tensors are not those of a CLIP: {error}"
        ) from error
