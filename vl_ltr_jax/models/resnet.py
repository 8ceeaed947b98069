"""CLIP's modified ResNet, one of the paper's two image encoders (Sec. 4.1).

Against the usual ResNet: three convolutions in the stem, average pooling before every
strided 1 x 1 convolution (anti-aliasing), attention pooling at the end. The paper
pre-trains it with frozen statistics on ImageNet-LT and Places-LT (`train=False`; the
affine weights still learn) and with batch statistics on iNaturalist (`train=True`).
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vl_ltr_jax.models.attention import HERE, Target, attend
from vl_ltr_jax.models.layers import Conv, rematerialized

_MOMENTUM = 0.1  # the weight of the newest batch, as in PyTorch


class BatchNorm(nn.Module):
    """Batch normalisation in float32 that updates its statistics as PyTorch does.

    Differs from VL-LTR: statistics are those of the global batch, the authors' those
    of each GPU.
    """

    scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W D"], train: bool
    ) -> Float[Array, "B H W D"]:
        """Normalises by batch statistics (`train`) or by the running ones."""
        shape = x.shape[-1:]
        scale = self.param("scale", self.scale_init, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape)
        wide = x.astype(jnp.float32)
        if train:
            mean, var = wide.mean((0, 1, 2)), wide.var((0, 1, 2))
            count = x.size // x.shape[-1]
            # PyTorch keeps the unbiased variance and normalises by the biased one.
            unbiased = var * (count / max(count - 1, 1))
            running_mean.value += _MOMENTUM * (mean - running_mean.value)
            running_var.value += _MOMENTUM * (unbiased - running_var.value)
        else:
            mean, var = running_mean.value, running_var.value
        factor = scale * jax.lax.rsqrt(var + 1e-5)
        shift = bias - mean * factor
        return (wide * factor[None, None, None] + shift[None, None, None]).astype(
            x.dtype
        )


def _halve(x: Float[Array, "B H W D"]) -> Float[Array, "B h w D"]:
    return nn.avg_pool(x, (2, 2), (2, 2))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1 convolutions around a shortcut; width 4 x `features`."""

    features: int
    stride: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W I"], train: bool
    ) -> Float[Array, "B h w O"]:
        """Applies the block; stride 2 halves height and width."""
        conv = partial(Conv, dtype=self.dtype)
        y = nn.relu(BatchNorm(name="bn1")(conv(self.features, name="conv1")(x), train))
        y = nn.relu(
            BatchNorm(name="bn2")(conv(self.features, 3, name="conv2")(y), train)
        )
        if self.stride == 2:
            x, y = _halve(x), _halve(y)
        y = conv(4 * self.features, name="conv3")(y)
        y = BatchNorm(nn.initializers.zeros, name="bn3")(y, train)
        if x.shape != y.shape or self.stride == 2:
            x = conv(4 * self.features, name="downsample_conv")(x)
            x = BatchNorm(name="downsample_bn")(x, train)
        return nn.relu(x + y)


class AttentionPool(nn.Module):
    """Attention of the mean position over itself and all others."""

    heads: int
    embed_dim: int
    dtype: DTypeLike = jnp.float32
    target: Target = HERE

    @nn.compact
    def __call__(self, x: Float[Array, "B H W D"]) -> Float[Array, "B E"]:
        """Pools a feature map into one vector an image."""
        width = x.shape[-1]
        normal = nn.initializers.normal(width**-0.5)
        x = x.reshape(x.shape[0], -1, width)
        x = jnp.concatenate([x.mean(axis=1, keepdims=True), x], axis=1)
        positions = self.param("positional_embedding", normal, x.shape[1:])
        x = x + positions.astype(x.dtype)[None]
        project = partial(nn.Dense, dtype=self.dtype, kernel_init=normal)
        pooled = attend(
            project(width, name="q_proj")(x[:, :1]),
            project(width, name="k_proj")(x),
            project(width, name="v_proj")(x),
            self.heads,
            target=self.target,
        )
        return project(self.embed_dim, name="c_proj")(pooled[:, 0])


class ModifiedResNet(nn.Module):
    """Stem, four stages of bottlenecks, attention pooling.

    Attributes:
      width: channels of the stem; stage k has 4 * 2^k times as many.
      layers: number of bottlenecks in each of the four stages.
      heads: heads of the attention pool.
      embed_dim: width E of the output.
      dtype: compute dtype; parameters and statistics stay float32.
      remat: policy of `layers.rematerialized`.
      target: devices of the program, which decide the form of products.
    """

    width: int
    layers: Sequence[int]
    heads: int
    embed_dim: int
    dtype: DTypeLike = jnp.float32
    remat: str = "none"
    target: Target = HERE

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W 3"], *, train: bool = False
    ) -> Float[Array, "B E"]:
        """Embeds normalised images; `train` uses and updates batch statistics."""
        conv = partial(Conv, kernel_size=3, dtype=self.dtype)
        x = conv(self.width // 2, stride=2, name="conv1")(images)
        x = nn.relu(BatchNorm(name="bn1")(x, train))
        x = conv(self.width // 2, name="conv2")(x)
        x = nn.relu(BatchNorm(name="bn2")(x, train))
        x = conv(self.width, name="conv3")(x)
        x = _halve(nn.relu(BatchNorm(name="bn3")(x, train)))
        block = rematerialized(Bottleneck, self.remat, static_argnums=(2,))
        for stage, blocks in enumerate(self.layers):
            for index in range(blocks):
                stride = 2 if stage > 0 and index == 0 else 1
                name = f"layer{stage + 1}_{index}"
                features = self.width * 2**stage
                x = block(features, stride, self.dtype, name=name)(x, train)
        sizes = (self.heads, self.embed_dim, self.dtype, self.target)
        return AttentionPool(*sizes, name="attnpool")(x)
