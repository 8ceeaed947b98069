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
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from vl_ltr_jax.models.attention import HERE, Target, attend
from vl_ltr_jax.models.layers import Conv, rematerialized

_MOMENTUM = 0.1  # the weight of the newest batch, as in PyTorch


class BatchNorm(nn.Module):
    """Batch normalisation in float32 that updates its statistics as PyTorch does.

    Differs from VL-LTR: statistics are those of the global batch, the authors' those
    of each GPU.
    """

    features: int
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    def setup(self) -> None:
        """Creates the affine weights and the running statistics."""
        shape = (self.features,)
        self.scale = self.param("scale", self.scale_init, shape)
        self.bias = self.param("bias", nn.initializers.zeros, shape)
        self.mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        self.var = self.variable("batch_stats", "var", jnp.ones, shape)

    def __call__(self, x: Float[Array, "B H W D"]) -> Float[Array, "B H W D"]:
        """Normalises by the statistics of the batch, and updates the running ones."""
        wide = x.astype(jnp.float32)
        if x.dtype == jnp.float32:
            mean, var = wide.mean((0, 1, 2)), wide.var((0, 1, 2))
        else:
            mean, var = _moments(wide, jax.lax.stop_gradient(self.mean.value))
        count = x.size // x.shape[-1]
        # PyTorch keeps the unbiased variance and normalises by the biased one.
        unbiased = var * (count / max(count - 1, 1))
        self.mean.value += _MOMENTUM * (mean - self.mean.value)
        self.var.value += _MOMENTUM * (unbiased - self.var.value)
        factor, shift = self._affine(mean, var)
        return (wide * factor[None, None, None] + shift[None, None, None]).astype(
            x.dtype
        )

    def frozen(self) -> tuple[Float[Array, " D"], Float[Array, " D"]]:
        """Returns factor and shift by the running statistics: factor x + shift."""
        return self._affine(self.mean.value, self.var.value)

    def _affine(self, mean: ArrayLike, var: ArrayLike) -> tuple[Array, Array]:
        factor = self.scale * jax.lax.rsqrt(var + 1e-5)
        return factor, self.bias - mean * factor


def _moments(
    x: Float[Array, "B H W D"], guess: ArrayLike
) -> tuple[Float[Array, " D"], Float[Array, " D"]]:
    """Returns means and variances in one visit of a map, for bfloat16.

    Squares are taken about a guess of the means. They lose what float32 loses, less
    than the map's own rounding. Three bottlenecks at 56 x 56, forward and backward, go
    from 54.3 to 41.3 million cycles by the TPU compiler's estimate.
    """
    centred = x - jnp.asarray(guess)[None, None, None]
    mean, square = centred.mean((0, 1, 2)), jnp.square(centred).mean((0, 1, 2))
    return mean + guess, jnp.maximum(square - jnp.square(mean), 0)


def conv_norm(
    x: Float[Array, "B H W I"], conv: Conv, norm: BatchNorm, train: bool
) -> Float[Array, "B h w O"]:
    """Returns a normalised convolution; `train` normalises by the batch.

    By frozen statistics it is one convolution with scaled kernels. The gradient of a
    factor is then a sum over its kernel, so no map is stored before its normalisation.
    """
    if train:
        return norm(conv(x))
    factor, shift = norm.frozen()
    y = conv(x, factor)
    return (y.astype(jnp.float32) + shift[None, None, None]).astype(y.dtype)


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
        normalised = partial(conv_norm, train=train)
        narrow, wide = self.features, 4 * self.features
        last = BatchNorm(wide, nn.initializers.zeros, name="bn3")
        y = normalised(x, conv(narrow, name="conv1"), BatchNorm(narrow, name="bn1"))
        y = nn.relu(y)
        y = normalised(y, conv(narrow, 3, name="conv2"), BatchNorm(narrow, name="bn2"))
        y = nn.relu(y)
        if self.stride == 2:
            x, y = _halve(x), _halve(y)
        y = normalised(y, conv(wide, name="conv3"), last)
        if x.shape != y.shape or self.stride == 2:
            shortcut = conv(wide, name="downsample_conv")
            x = normalised(x, shortcut, BatchNorm(wide, name="downsample_bn"))
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
        x = images
        half = self.width // 2
        for index, features in enumerate((half, half, self.width)):
            norm = BatchNorm(features, name=f"bn{index + 1}")
            stride = 2 if index == 0 else 1
            conv = Conv(features, 3, stride, self.dtype, name=f"conv{index + 1}")
            x = nn.relu(conv_norm(x, conv, norm, train))
        x = _halve(x)
        block = rematerialized(Bottleneck, self.remat, static_argnums=(2,))
        for stage, blocks in enumerate(self.layers):
            for index in range(blocks):
                stride = 2 if stage > 0 and index == 0 else 1
                name = f"layer{stage + 1}_{index}"
                features = self.width * 2**stage
                x = block(features, stride, self.dtype, name=name)(x, train)
        sizes = (self.heads, self.embed_dim, self.dtype, self.target)
        return AttentionPool(*sizes, name="attnpool")(x)
