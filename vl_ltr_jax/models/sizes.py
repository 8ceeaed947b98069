"""The sizes of a CLIP, told from a `config.json` or from the shapes of its tensors."""

import contextlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vl_ltr_jax.models.clip import RESNET_STRIDE, ClipConfig, TextConfig, VisionConfig

_HEAD_WIDTH = 64  # of every published CLIP
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
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_FIXED = dict(hidden_act="quick_gelu", layer_norm_eps=1e-5, num_channels=3)


def _short(value: Any) -> str:
    return repr(value)[:100]


def _size(value: Any, key: str, source: str) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"{source}: {key} is {_short(value)}, not a positive integer")
    largest = _MOST_LAYERS if key.endswith("num_hidden_layers") else _LARGEST
    if value > largest:
        raise ValueError(f"{source}: {key} is {value}; at most {largest} is built here")
    return value


def _tower(
    content: Mapping[str, Any], name: str, defaults: dict[str, int], source: str
) -> dict[str, int]:
    """One tower's sizes, after a check that it is built as OpenAI's are."""
    given: dict[str, Any] = {}
    for key in (name, f"{name}_dict"):  # the second is how old files override
        section = content.get(key) or {}
        if not isinstance(section, dict):
            raise ValueError(f"{source}: {key} is {_short(section)}, not an object")
        given |= section
    sizes = {
        key: _size(given.get(key, default), f"{name}.{key}", source)
        for key, default in defaults.items()
    }
    fixed = _FIXED | {"intermediate_size": 4 * sizes["hidden_size"]}
    for key, value in fixed.items():
        found = (given | sizes).get(key, value)
        if found != value:
            raise ValueError(
                f"{source}: {name}.{key} is {_short(found)}; OpenAI's CLIP, the only "
                f"kind built here, has {value!r}"
            )
    return sizes


def from_config_json(content: Mapping[str, Any], source: str) -> ClipConfig:
    """Sizes from the content of Hugging Face's `config.json`.

    Args:
        content: The parsed file.
        source: Its path, for errors.

    Raises:
        ValueError: If it describes another kind of model, or sizes that cannot be.
    """
    if content.get("model_type") != "clip":
        raise ValueError(
            f"{source}: model_type is {_short(content.get('model_type'))}, not 'clip'"
        )
    vision = _tower(content, "vision_config", _VISION_DEFAULTS, source)
    text = _tower(content, "text_config", _TEXT_DEFAULTS, source)
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
            ),
            TextConfig(
                width=text["hidden_size"],
                layers=text["num_hidden_layers"],
                heads=text["num_attention_heads"],
                context_length=text["max_position_embeddings"],
                vocab_size=text["vocab_size"],
            ),
            embed_dim,
        )
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def to_config_json(config: ClipConfig, dtype: str) -> dict[str, Any]:
    """The content of a `config.json` for `transformers.CLIPModel`.

    Args:
        config: Sizes of a CLIP whose image tower is a ViT.
        dtype: Name of the dtype of its tensors.
    """
    vision, text = config.vision, config.text

    def tower(width: int, layers: int | tuple[int, ...], heads: int) -> dict[str, Any]:
        return {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "hidden_act": _FIXED["hidden_act"],
            "layer_norm_eps": _FIXED["layer_norm_eps"],
            "projection_dim": config.embed_dim,
        }

    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "dtype": dtype,
        "projection_dim": config.embed_dim,
        "text_config": tower(text.width, text.layers, text.heads)
        | {
            "max_position_embeddings": text.context_length,
            "vocab_size": text.vocab_size,
            # Start and end of text are the last two ids; padding is never read.
            "bos_token_id": text.vocab_size - 2,
            "eos_token_id": text.vocab_size - 1,
            "pad_token_id": 0,
        },
        "vision_config": tower(vision.width, vision.layers, vision.heads)
        | {"image_size": vision.image_size, "patch_size": vision.patch_size},
    }


def to_preprocessor_json(
    image_size: int,
    *,
    shorter_side: int | None = None,
    mean: Sequence[float] = _CLIP_MEAN,
    std: Sequence[float] = _CLIP_STD,
) -> str:
    """A `preprocessor_config.json`, by default CLIP's own preprocessing at a size.

    Args:
        image_size: Side of the centre crop in pixels.
        shorter_side: Of the picture that it is cut from; if None the crop's.
        mean: Of each channel, of pictures scaled to 0..1.
        std: The same, standard deviations.
    """
    content = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": shorter_side or image_size},
        "resample": 3,  # Pillow's number for bicubic
        "do_center_crop": True,
        "crop_size": {"height": image_size, "width": image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }
    return json.dumps(content, indent=2) + "\n"


def from_shapes(shapes: Mapping[str, tuple[int, ...]], source: str) -> ClipConfig:
    """Sizes from the tensor shapes of OpenAI's state dict; heads are 64 wide.

    Args:
        shapes: Name -> shape.
        source: Path of the file, for errors.

    Raises:
        ValueError: If a tensor that tells a size is missing or of another rank, or if
            the sizes cannot be.
    """
    vision, _ = vision_from_shapes(shapes, source)
    with _told_by(source):
        vocab_size, width = shapes["token_embedding.weight"]
        context_length, _ = shapes["positional_embedding"]
        _, embed_dim = shapes["text_projection"]
        text = TextConfig(
            width=width,
            layers=_count(shapes, "transformer.resblocks"),
            heads=width // _HEAD_WIDTH,
            context_length=context_length,
            vocab_size=vocab_size,
        )
        return ClipConfig(vision, text, embed_dim)


def vision_from_shapes(
    shapes: Mapping[str, tuple[int, ...]], source: str
) -> tuple[VisionConfig, int]:
    """Sizes of the image tower alone, and the width E of its embeddings.

    Args:
        shapes: Name -> shape, under OpenAI's names.
        source: Path of the file, for errors.

    Raises:
        ValueError: As `from_shapes`.
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
                heads=width // _HEAD_WIDTH,
                patch_size=patch_size,
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
            heads=width // _HEAD_WIDTH,
        )
        return vision, shapes["visual.attnpool.c_proj.weight"][0]


def _count(shapes: Mapping[str, Any], prefix: str) -> int:
    pattern = re.compile(rf"{re.escape(prefix)}\.\d+\.")
    count = len({match[0] for name in shapes if (match := pattern.match(name))})
    if count > _MOST_LAYERS:
        raise ValueError(
            f"{prefix} has {count} layers, at most {_MOST_LAYERS} are built"
        )
    return count


@contextlib.contextmanager
def _told_by(source: str) -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        raise ValueError(
            f"{source}: tensor {error} is missing, which tells the size of the model"
        ) from error
    except (ValueError, IndexError) as error:
        raise ValueError(
            f"{source}: the tensors are not those of a CLIP: {error}"
        ) from error
