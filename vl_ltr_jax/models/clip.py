"""CLIP: two towers and a temperature (VL-LTR Sec. 3.2), and its published sizes.

`variables` are Flax's: `params` with the branches `visual`, `text`, `logit_scale`, and,
for a ResNet only, `batch_stats`.
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Integer

from vl_ltr_jax.models.attention import HERE, Target
from vl_ltr_jax.models.layers import Activation
from vl_ltr_jax.models.resnet import ModifiedResNet
from vl_ltr_jax.models.text import PackedTokens, TextTransformer
from vl_ltr_jax.models.vit import VisionTransformer
from vl_ltr_jax.runtime.errors import UserError

RESNET_STRIDE = 32  # side in pixels of a position of the attention pool


class SizeError(UserError):
    """Impossible sizes of a CLIP, from files or flags."""


def _check_heads(tower: str, width: int, heads: int) -> None:
    if heads < 1 or width % heads:
        raise SizeError(
            f"{tower}: width {width} is not a multiple of its {heads} attention heads; "
            f"CLIP's own sizes have width / 64 heads"
        )


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of an image tower.

    Attributes:
      kind: 'vit', or 'resnet' for CLIP's modified ResNet.
      image_size: side of the square input in pixels.
      width: width of the residual stream, or channels of the ResNet's stem.
      layers: number of blocks; for a ResNet, of each of the four stages.
      heads: attention heads; for a ResNet, of the attention pool.
      patch_size: side of a patch in pixels; None for a ResNet.
      mlp_width: hidden width of a ViT's MLPs; 0 becomes 4 times the width.
      activation: activation of a ViT's MLPs.
    """

    kind: Literal["vit", "resnet"]
    image_size: int
    width: int
    layers: int | tuple[int, ...]
    heads: int
    patch_size: int | None = None
    mlp_width: int = 0
    activation: Activation = "quick_gelu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mlp_width", self.mlp_width or 4 * self.width)
        if self.kind == "vit":
            if self.patch_size is None or not isinstance(self.layers, int):
                raise SizeError("vision: a 'vit' needs a patch_size and one layers")
            _check_heads("vision", self.width, self.heads)
        else:
            if self.patch_size is not None or isinstance(self.layers, int):
                raise SizeError(
                    "vision: a 'resnet' has no patch_size, and layers for each stage"
                )
            _check_heads("vision", self.width * RESNET_STRIDE, self.heads)
        if self.image_size % self.stride:
            raise SizeError(
                f"vision: image_size {self.image_size} is not a multiple of "
                f"{self.stride}, the side of a patch"
            )

    @property
    def stride(self) -> int:
        """Side of a position in pixels."""
        return self.patch_size or RESNET_STRIDE


@dataclass(frozen=True)
class TextConfig:
    """Sizes of a text tower.

    Attributes:
      width: width of the residual stream.
      context_length: most tokens of a sentence, start and end included.
      mlp_width: hidden width of the MLPs; 0 becomes 4 times the width.
    """

    width: int
    layers: int
    heads: int
    context_length: int = 77
    vocab_size: int = 49408
    mlp_width: int = 0
    activation: Activation = "quick_gelu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mlp_width", self.mlp_width or 4 * self.width)
        _check_heads("text", self.width, self.heads)


@dataclass(frozen=True)
class ClipConfig:
    """Sizes of both towers and the width E of the space they share."""

    vision: VisionConfig
    text: TextConfig
    embed_dim: int

    def at_image_size(self, image_size: int) -> "ClipConfig":
        """Returns the sizes for images of another size in pixels."""
        return replace(self, vision=replace(self.vision, image_size=image_size))

    def with_activations(self, vision: Activation, text: Activation) -> "ClipConfig":
        """Returns the sizes with other activations; a ResNet keeps its default."""
        if self.vision.kind == "resnet":
            vision = self.vision.activation
        return replace(
            self,
            vision=replace(self.vision, activation=vision),
            text=replace(self.text, activation=text),
        )


def _base(patch_size: int) -> ClipConfig:
    vision = VisionConfig("vit", 224, 768, 12, 12, patch_size)
    return ClipConfig(vision, TextConfig(512, 12, 8), 512)


def _large(image_size: int) -> ClipConfig:
    vision = VisionConfig("vit", image_size, 1024, 24, 16, 14)
    return ClipConfig(vision, TextConfig(768, 12, 12), 768)


def _huge() -> ClipConfig:
    vision = VisionConfig("vit", 224, 1280, 32, 16, 14, activation="gelu")
    return ClipConfig(vision, TextConfig(1024, 24, 16, activation="gelu"), 1024)


def _big_g() -> ClipConfig:
    vision = VisionConfig("vit", 224, 1664, 48, 16, 14, 8192, activation="gelu")
    return ClipConfig(vision, TextConfig(1280, 32, 20, activation="gelu"), 1280)


def _resnet(
    image_size: int, width: int, layers: tuple[int, ...], text_width: int, embed: int
) -> ClipConfig:
    # Heads are 64 wide, the last stage is 32 times as wide as the first.
    vision = VisionConfig("resnet", image_size, width, layers, width // 2)
    return ClipConfig(vision, TextConfig(text_width, 12, text_width // 64), embed)


_TINY_TEXT = TextConfig(128, 3, 2, vocab_size=4096)

# Sizes by name. OpenAI's ViTs, up to L, have QuickGELU; LAION's H and bigG have GELU.
# Weights that others trained at these sizes bring their own activation.
PRESETS: dict[str, ClipConfig] = {
    "ViT-B/16": _base(16),
    "ViT-B/32": _base(32),
    "ViT-L/14": _large(224),
    "ViT-L/14@336": _large(336),
    "ViT-H/14": _huge(),
    "ViT-bigG/14": _big_g(),
    "RN50": _resnet(224, 64, (3, 4, 6, 3), 512, 1024),
    "RN101": _resnet(224, 64, (3, 4, 23, 3), 512, 512),
    "RN50x4": _resnet(288, 80, (4, 6, 10, 6), 640, 640),
    "ViT-tiny": ClipConfig(VisionConfig("vit", 32, 128, 4, 2, 8), _TINY_TEXT, 128),
    "RN-tiny": ClipConfig(
        VisionConfig("resnet", 64, 16, (1, 1, 1, 1), 8), _TINY_TEXT, 128
    ),
}


class Clip(nn.Module):
    """Both towers and the logarithm of the inverse temperature.

    Attributes:
      config: sizes.
      dtype: compute dtype; parameters and LayerNorms are float32.
      remat: policy of :func:`layers.rematerialized`.
      target: devices of the program, which decide the form of products.
    """

    config: ClipConfig
    dtype: DTypeLike = jnp.float32
    remat: str = "none"
    target: Target = HERE

    def setup(self) -> None:
        """Builds the towers."""
        sizes = asdict(self.config.vision)
        tower = VisionTransformer if sizes.pop("kind") == "vit" else ModifiedResNet
        fields = {name: sizes[name] for name in sizes.keys() & tower.__annotations__}
        shared: Any = dict(
            embed_dim=self.config.embed_dim,
            dtype=self.dtype,
            remat=self.remat,
            target=self.target,
        )
        self.visual = tower(**fields, **shared)
        self.text = TextTransformer(**asdict(self.config.text), **shared)
        self.logit_scale = self.param(
            "logit_scale", nn.initializers.constant(math.log(1 / 0.07)), ()
        )

    def encode_image(
        self, images: Float[Array, "B H W 3"], *, train: bool = False
    ) -> Float[Array, "B E"]:
        """Returns image features.

        Args:
          images: normalised pixels.
          train: True if a ResNet's BatchNorm uses the statistics of this batch and
            updates the running ones (then apply with mutable=['batch_stats']).

        Raises:
          SizeError: the images are not of the configured size.
        """
        size = self.config.vision.image_size
        if images.shape[1:3] != (size, size):
            raise SizeError(
                f"images are {images.shape[1]} x {images.shape[2]}, the model takes "
                f"{size} x {size}. Set load_clip(..., image_size=)"
            )
        return self.visual(images, train=train)

    def encode_text(
        self, tokens: Integer[Array, "B L"] | PackedTokens
    ) -> Float[Array, "B E"]:
        """Returns text features.

        Args:
          tokens: ids with start and end of text, the largest id. Later ids have no
            effect. Packed sentences give B = G b features, group by group.

        Raises:
          SizeError: the rows are longer than the context.
        """
        longest = self.config.text.context_length
        ids = tokens.tokens if isinstance(tokens, PackedTokens) else tokens
        if ids.shape[-1] > longest:
            raise SizeError(
                f"sentences have {ids.shape[-1]} tokens, the model takes {longest}. "
                "Truncate them"
            )
        return self.text(tokens)

    def __call__(
        self,
        images: Float[Array, "B H W 3"],
        tokens: Integer[Array, "b L"] | PackedTokens,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "B E"], Float[Array, "b E"]]:
        """Returns image and text features."""
        return self.encode_image(images, train=train), self.encode_text(tokens)


def variable_shapes(config: ClipConfig) -> dict[str, Any]:
    """Returns the variables of a model as shapes and dtypes."""
    size = config.vision.image_size
    # Shapes only: a real key or array would start the devices.
    return jax.eval_shape(
        Clip(config, target=Target("cpu")).init,  # any: the shapes are the same
        jax.eval_shape(lambda: jax.random.key(0)),
        jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32),
        jax.ShapeDtypeStruct((1, 1), jnp.int32),
    )
