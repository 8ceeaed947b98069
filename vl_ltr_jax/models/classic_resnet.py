"""ResNet and ResNeXt in torchvision's layout, image towers without language.

BBN, ResLT, RIDE and TADE split them, see `systems`. The strided convolution of a
bottleneck is its 3 x 3, as in torchvision. Names of modules are torchvision's, so that
`port` only renames.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vl_ltr_jax.models.layers import Conv, rematerialized
from vl_ltr_jax.models.resnet import BatchNorm, conv_norm


class Block(NamedTuple):
    """Sizes of a residual block.

    Attributes:
      name: of the module, such as `layer3_0`.
      features: channels of its output.
      width: channels of its 3 x 3 convolutions.
      stride: of its first 3 x 3 convolution.
      groups: of its 3 x 3 convolution.
      expands: True for a bottleneck; else two 3 x 3 convolutions.
    """

    name: str
    features: int
    width: int
    stride: int = 1
    groups: int = 1
    expands: bool = True


def bottlenecks(
    layers: Sequence[int],
    *,
    planes: Sequence[int] = (64, 128, 256, 512),
    groups: int = 1,
    group_width: int = 64,
) -> tuple[Block, ...]:
    """Returns the blocks of a ResNet-50 and its like.

    Args:
      layers: number of blocks in each stage.
      planes: a quarter of the channels of each stage's output.
      groups: of the 3 x 3 convolutions; 32 for a ResNeXt.
      group_width: channels of a group where there are 64 planes.
    """
    return tuple(
        Block(name, 4 * size, size * group_width // 64 * groups, stride, groups)
        for name, size, stride in _stages(layers, planes)
    )


def basic_blocks(
    layers: Sequence[int], *, planes: Sequence[int] = (64, 128, 256, 512)
) -> tuple[Block, ...]:
    """Returns the blocks of a ResNet-10 and its like."""
    return tuple(
        Block(name, size, size, stride, expands=False)
        for name, size, stride in _stages(layers, planes)
    )


def _stages(
    layers: Sequence[int], planes: Sequence[int]
) -> Iterator[tuple[str, int, int]]:
    for stage, (count, size) in enumerate(zip(layers, planes, strict=True), 1):
        for index in range(count):
            stride = 2 if stage > 1 and index == 0 else 1
            yield f"layer{stage}_{index}", size, stride


class ResidualBlock(nn.Module):
    """Two or three convolutions beside a shortcut.

    Attributes:
      sizes: of the block.
      pads_shortcut: True if a shortcut that halves takes every second position and
        fills new channels with zeros (ResNet-32); else it is a 1 x 1 convolution.
      dtype: compute dtype; parameters and statistics stay float32.
    """

    sizes: Block
    pads_shortcut: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W I"], train: bool
    ) -> Float[Array, "B h w O"]:
        """Applies the block; a strided one halves height and width, rounded up."""
        features, width, stride, groups = self.sizes[1:5]
        conv = partial(Conv, dtype=self.dtype)
        layers = (
            [(width, 1, 1, 1), (width, 3, stride, groups), (features, 1, 1, 1)]
            if self.sizes.expands
            else [(width, 3, stride, 1), (features, 3, 1, 1)]
        )
        y = x
        for index, (size, kernel, step, split) in enumerate(layers, 1):
            y = nn.relu(y) if index > 1 else y
            convolution = conv(size, kernel, step, groups=split, name=f"conv{index}")
            y = conv_norm(y, convolution, BatchNorm(size, name=f"bn{index}"), train)
        if stride == 1 and x.shape[-1] == features:
            return nn.relu(x + y)
        if self.pads_shortcut:
            missing = features - x.shape[-1]
            x = x[:, ::stride, ::stride]
            sides = (missing // 2, missing - missing // 2)
            return nn.relu(jnp.pad(x, ((0, 0),) * 3 + (sides,)) + y)
        shortcut = conv(features, 1, stride, name="downsample_conv")
        norm = BatchNorm(features, name="downsample_bn")
        return nn.relu(conv_norm(x, shortcut, norm, train) + y)


class ResNet(nn.Module):
    """Stem, blocks, mean over positions.

    Attributes:
      blocks: in order. Without a stem these are the last blocks of a network.
      stem: channels of the 7 x 7 convolution, after which maxima of 3 x 3 windows
        halve the map; of a 3 x 3 one if `is_small`; 0 for none.
      is_small: True for images of 32 pixels (ResNet-32).
      pools: True for features [B, D]; else the last map is returned.
      dtype: compute dtype.
      remat: policy of `layers.rematerialized`.
    """

    blocks: tuple[Block, ...]
    stem: int = 64
    is_small: bool = False
    pools: bool = True
    dtype: DTypeLike = jnp.float32
    remat: str = "none"

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W I"], *, train: bool = False
    ) -> Float[Array, "B *map D"]:
        """Embeds normalised images; `train` uses and updates batch statistics."""
        x = images
        if self.stem:
            size, stride = (3, 1) if self.is_small else (7, 2)
            conv = Conv(self.stem, size, stride, self.dtype, name="conv1")
            x = nn.relu(conv_norm(x, conv, BatchNorm(self.stem, name="bn1"), train))
        if self.stem and not self.is_small:
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        block = rematerialized(ResidualBlock, self.remat, static_argnums=(2,))
        for sizes in self.blocks:
            x = block(sizes, self.is_small, self.dtype, name=sizes.name)(x, train)
        if self.pools:
            x = x.astype(jnp.float32).mean((1, 2)).astype(x.dtype)
        return x
