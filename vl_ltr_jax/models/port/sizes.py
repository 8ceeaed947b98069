"""The sizes of a CLIP, from a `config.json` or from the shapes of its tensors."""

import contextlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vl_ltr_jax.models.clip import RESNET_STRIDE, ClipConfig, TextConfig, VisionConfig
from vl_ltr_jax.models.layers import ACTIVATIONS, Activation
from vl_ltr_jax.runtime.errors import UserError

_HEAD_WIDTH = 64
# The image towers of ViT-H, g and bigG, by their width; all others have 64.
_HEAD_WIDTHS = {1280: 80, 1408: 88, 1664: 104}
# Beyond any CLIP: a model of a damaged file's sizes would take hours to lay out.
_LARGEST = 2**20
_MOST_LAYERS = 256

# What a config.json leaves out has these values.
_TEXT_DEFAULTS = dict(
    hidden_size=512,
    intermediate_size=2048,
    num_hidden_layers=12,
    num_attention_heads=8,
    max_position_embeddings=77,
    vocab_size=49408,
)
_VISION_DEFAULTS = dict(
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    image_size=224,
    patch_size=32,
)
_EMBED_DIM_DEFAULT = 512
_FIXED = dict(layer_norm_eps=1e-5, num_channels=3)
_ACTIVATION_DEFAULT = "quick_gelu"
_OLD_END = 2  # what old files have for any end of text; the largest id is meant


class ModelFileError(UserError):
    """A file that describes no CLIP, or one that is not built here."""


@dataclass(frozen=True)
class Details:
    """Facts of a CLIP that the shapes of its tensors do not show.

    Attributes:
        activation: Of the MLPs of both towers.
        head_width: Of the image tower; None: that of the published models.
        text_heads: Of the text tower; None: its width / 64.
    """

    activation: Activation = "quick_gelu"
    head_width: int | None = None
    text_heads: int | None = None

    def vision_heads(self, width: int) -> int:
        """Number of heads of an image tower of a width."""
        head_width = self.head_width or _HEAD_WIDTHS.get(width, _HEAD_WIDTH)
        if width % head_width:
            raise ModelFileError(
                f"the width {width} is not a multiple of the head width {head_width}"
            )
        return width // head_width


OPENAI_DETAILS = Details()


def _short(value: Any) -> str:
    return repr(value)[:100]


def _size(value: Any, key: str, source: str) -> int:
    if type(value) is not int or value < 1:
        raise ModelFileError(
            f"{source}: {key} is {_short(value)}, not a positive integer"
        )
    largest = _MOST_LAYERS if key.endswith("num_hidden_layers") else _LARGEST
    if value > largest:
        raise ModelFileError(
            f"{source}: {key} is {value}; at most {largest} is built here"
        )
    return value


def _tower(
    content: Mapping[str, Any], name: str, defaults: dict[str, int], source: str
) -> tuple[dict[str, int], Activation]:
    """One tower's sizes and its activation, if all else of it is as OpenAI's."""
    # Where old files have the second section, transformers takes nothing of the first.
    key = name if content.get(f"{name}_dict") is None else f"{name}_dict"
    given = content.get(key) or {}
    if not isinstance(given, dict):
        raise ModelFileError(f"{source}: {key} is {_short(given)}, not an object")
    sizes = {
        key: _size(given.get(key, default), f"{name}.{key}", source)
        for key, default in defaults.items()
    }
    for key, value in _FIXED.items():
        if given.get(key, value) != value:
            raise ModelFileError(
                f"{source}: {name}.{key} is {_short(given[key])}; the towers built "
                f"here have {value!r}"
            )
    activation = given.get("hidden_act", _ACTIVATION_DEFAULT)
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise ModelFileError(
            f"{source}: {name}.hidden_act is {_short(activation)}; built here are "
            f"{' and '.join(map(repr, ACTIVATIONS))}"
        )
    if "vocab_size" in sizes:
        last = sizes["vocab_size"] - 1
        end = given.get("eos_token_id", last)
        if end not in (last, _OLD_END):
            raise ModelFileError(
                f"{source}: {name}.eos_token_id is {_short(end)}; sentences are read "
                f"off at the largest id here, {last}"
            )
    return sizes, activation


def from_config_json(content: Mapping[str, Any], source: str) -> ClipConfig:
    """Sizes from the content of Hugging Face's `config.json`.

    Args:
        content: The parsed file.
        source: Its path, for errors.

    Raises:
        ModelFileError: If it describes another kind of model, or impossible sizes.
    """
    if content.get("model_type") != "clip":
        raise ModelFileError(
            f"{source}: model_type is {_short(content.get('model_type'))}, not 'clip'"
        )
    vision, vision_activation = _tower(
        content, "vision_config", _VISION_DEFAULTS, source
    )
    text, text_activation = _tower(content, "text_config", _TEXT_DEFAULTS, source)
    embed_dim = content.get("projection_dim", _EMBED_DIM_DEFAULT)
    embed_dim = _size(embed_dim, "projection_dim", source)
    try:
        return ClipConfig(
            VisionConfig(
                "vit",
                image_size=vision["image_size"],
                width=vision["hidden_size"],
                layers=vision["num_hidden_layers"],
                heads=vision["num_attention_heads"],
                patch_size=vision["patch_size"],
                mlp_width=vision["intermediate_size"],
                activation=vision_activation,
            ),
            TextConfig(
                width=text["hidden_size"],
                layers=text["num_hidden_layers"],
                heads=text["num_attention_heads"],
                context_length=text["max_position_embeddings"],
                vocab_size=text["vocab_size"],
                mlp_width=text["intermediate_size"],
                activation=text_activation,
            ),
            embed_dim,
        )
    except UserError as error:
        raise ModelFileError(f"{source}: {error}") from error


def to_config_json(config: ClipConfig, dtype: str) -> dict[str, Any]:
    """The content of a `config.json` for `transformers.CLIPModel`.

    Args:
        config: Sizes of a CLIP whose image tower is a ViT.
        dtype: Name of the dtype of its tensors.
    """
    vision, text = config.vision, config.text

    def tower(part: VisionConfig | TextConfig) -> dict[str, Any]:
        return {
            "hidden_size": part.width,
            "intermediate_size": part.mlp_width,
            "num_hidden_layers": part.layers,
            "num_attention_heads": part.heads,
            "hidden_act": part.activation,
            "layer_norm_eps": _FIXED["layer_norm_eps"],
            "projection_dim": config.embed_dim,
        }

    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "dtype": dtype,
        "projection_dim": config.embed_dim,
        "text_config": tower(text)
        | {
            "max_position_embeddings": text.context_length,
            "vocab_size": text.vocab_size,
            # Start and end of text are the last two ids; padding is never read.
            "bos_token_id": text.vocab_size - 2,
            "eos_token_id": text.vocab_size - 1,
            "pad_token_id": 0,
        },
        "vision_config": tower(vision)
        | {"image_size": vision.image_size, "patch_size": vision.patch_size},
    }


def from_shapes(
    shapes: Mapping[str, tuple[int, ...]],
    source: str,
    details: Details = OPENAI_DETAILS,
) -> ClipConfig:
    """Sizes from the tensor shapes of OpenAI's state dict.

    Args:
        shapes: Name -> shape.
        source: Path of the file, for errors.
        details: The facts that shapes do not show; by default those of OpenAI's models.

    Raises:
        ModelFileError: If a tensor that shows a size is missing or of another rank, or
            if the sizes cannot be.
    """
    vision, _ = vision_from_shapes(shapes, source, details)
    with _told_by(source):
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
    """Sizes of the image tower alone, and the width E of its embeddings.

    Args:
        shapes: Name -> shape, under OpenAI's names.
        source: Path of the file, for errors.
        details: As `from_shapes`.

    Raises:
        ModelFileError: As `from_shapes`.
    """
    with _told_by(source):
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
            layers=tuple(
                _count(shapes, f"visual.layer{stage}") for stage in (1, 2, 3, 4)
            ),
            heads=width // (details.head_width or _HEAD_WIDTH),
        )
        return vision, shapes["visual.attnpool.c_proj.weight"][0]


def _mlp_width(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> int:
    """Hidden width of the first block's MLP; 0 where that tensor is missing."""
    return shapes.get(f"{prefix}.0.mlp.c_fc.weight", (0,))[0]


def _count(shapes: Mapping[str, Any], prefix: str) -> int:
    pattern = re.compile(rf"{re.escape(prefix)}\.\d+\.")
    count = len({match[0] for name in shapes if (match := pattern.match(name))})
    if count > _MOST_LAYERS:
        raise ModelFileError(
            f"{prefix} has {count} layers, at most {_MOST_LAYERS} are built"
        )
    return count


@contextlib.contextmanager
def _told_by(source: str) -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        raise ModelFileError(
            f"{source}: tensor {error} is missing, which tells the size of the model"
        ) from error
    except (ValueError, IndexError) as error:
        raise ModelFileError(
            f"{source}: the tensors are not those of a CLIP: {error}"
        ) from error
