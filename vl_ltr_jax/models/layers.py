"""Layers of both towers: convolution, attention, residual block.

They follow the paper's CLIP (VL-LTR Sec. 3.2): pre-norm residual blocks, LayerNorm with
epsilon 1e-5 in float32 for every compute dtype. OpenAI's models have QuickGELU; LAION's
and DataComp's have the exact GELU. Names of modules and parameters are those of
OpenAI's PyTorch code, so that `port` only renames.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from vl_ltr_jax.models.attention import HERE, Target, attend
from vl_ltr_jax.models.fused_gradients import add_bias, forked_layer_norm

Activation: TypeAlias = Literal["quick_gelu", "gelu"]

REMAT_POLICIES = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_saveable,
    "dots_no_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}

# The fast variance E[x^2] - E[x]^2 cancels in float32 where a channel is large.
LayerNorm = partial(
    nn.LayerNorm, epsilon=1e-5, dtype=jnp.float32, use_fast_variance=False
)


def quick_gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns CLIP's approximation of GELU, x sigmoid(1.702 x)."""
    return x * jax.nn.sigmoid(1.702 * x)


# By the names of Hugging Face's `hidden_act`.
ACTIVATIONS: dict[Activation, Callable[[Array], Array]] = {
    "quick_gelu": quick_gelu,
    "gelu": partial(jax.nn.gelu, approximate=False),
}


class Dense(nn.Module):
    """Affine map of the last axis.

    Over [B, L, D] the weight gradient contracts two axes, for which XLA's CPU backend
    has no fast product: with rows in one axis the tiny ViT's MLP took 31 ms instead of
    54, forward and backward. On a TPU that reshape moves the whole array, since 197
    tokens fill no tiles of 8 rows: two blocks of ViT-B/16 take 18 % fewer cycles
    without it, by the compiler's estimate.
    """

    features: int
    use_bias: bool = True
    dtype: DTypeLike = jnp.float32
    target: Target = HERE
    into_kernel: bool = False  # True if a kernel reads the result
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, inputs: Float[Array, "*B D"]) -> Float[Array, "*B F"]:
        """Maps width D to `features`."""
        width = inputs.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (width, self.features))
        rows = inputs.astype(self.dtype)
        if self.target.is_cpu:
            rows = rows.reshape(-1, width)
        rows = rows @ kernel.astype(self.dtype)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            if self.into_kernel and self.target.platform == "tpu":
                rows = add_bias(rows, bias)
            else:
                rows = rows + jnp.broadcast_to(bias.astype(self.dtype), rows.shape)
        return rows.reshape(*inputs.shape[:-1], self.features)


class Conv(nn.Module):
    """Square convolution without bias; the kernel is [k, k, in / groups, out].

    Windows that tile the image (stride = k: 1 x 1, patch embedding) make it one matrix
    product. On CPU its weight gradient is several times faster than a convolution's.
    Otherwise the padding keeps the size, halved by stride 2.
    """

    features: int
    kernel_size: int = 1
    stride: int = 1
    dtype: DTypeLike = jnp.float32
    groups: int = 1

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W I"], factor: Float[Array, " O"] | None = None
    ) -> Float[Array, "B h w O"]:
        """Convolves an image batch of height H and width W.

        `factor` scales the kernels of the output channels.
        """
        size = self.kernel_size
        kernel = self.param(
            "kernel",
            nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
            (size, size, x.shape[-1] // self.groups, self.features),
        )
        if factor is not None:
            kernel = kernel * factor[None, None, None]
        kernel, x = kernel.astype(self.dtype), x.astype(self.dtype)
        if self.stride == size and self.groups == 1:
            batch, height, width, channels = x.shape
            grid = (height // size, width // size)
            x = x.reshape(batch, grid[0], size, grid[1], size, channels)
            x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, *grid, -1)
            return x @ kernel.reshape(-1, self.features)
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(self.stride, self.stride),
            padding=[(size // 2, size // 2)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.groups,
        )


class Attention(nn.Module):
    """Multi-head self-attention with biases on all four projections."""

    heads: int
    out_std: float
    dtype: DTypeLike = jnp.float32
    target: Target = HERE

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], visible: Bool[Array, "#B 1 L L"] | None
    ) -> Float[Array, "B L D"]:
        """Mixes positions."""
        width = x.shape[-1]
        project = partial(
            Dense,
            width,
            dtype=self.dtype,
            target=self.target,
            kernel_init=nn.initializers.normal(width**-0.5),
        )
        mixed = attend(
            project(into_kernel=True, name="q_proj")(x),
            project(into_kernel=True, name="k_proj")(x),
            project(into_kernel=True, name="v_proj")(x),
            self.heads,
            visible,
            self.target,
        )
        out_init = nn.initializers.normal(self.out_std)
        return project(kernel_init=out_init, name="out_proj")(mixed)


class Mlp(nn.Module):
    """D -> `hidden` -> activation -> D."""

    hidden: int
    activation: Activation
    out_std: float
    dtype: DTypeLike = jnp.float32
    target: Target = HERE

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """Transforms each position."""
        width = x.shape[-1]
        in_init = nn.initializers.normal((2 * width) ** -0.5)
        out_init = nn.initializers.normal(self.out_std)
        dense = partial(Dense, dtype=self.dtype, target=self.target)
        x = dense(self.hidden, kernel_init=in_init, name="c_fc")(x)
        x = ACTIVATIONS[self.activation](x)
        return dense(width, kernel_init=out_init, name="c_proj")(x)


class ResidualBlock(nn.Module):
    """x + attention(LN(x)), then x + MLP(LN(x)).

    `out_std` scales the kernels that write into the residual stream, so that its
    variance does not grow with depth (OpenAI's `initialize_parameters`).
    """

    heads: int
    mlp_width: int
    activation: Activation
    out_std: float
    dtype: DTypeLike = jnp.float32
    target: Target = HERE

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], visible: Bool[Array, "#B 1 L L"] | None = None
    ) -> Float[Array, "B L D"]:
        """Applies the block; for `visible` see :func:`attention.attend`."""
        shared = (self.out_std, self.dtype, self.target)
        attention = Attention(self.heads, *shared, name="attn")
        mlp = Mlp(self.mlp_width, self.activation, *shared, name="mlp")
        if self.target.platform == "tpu":
            x, normal = ForkedLayerNorm(name="ln_1")(x)
            x, normal = ForkedLayerNorm(name="ln_2")(x + attention(normal, visible))
            return x + mlp(normal)
        x = x + attention(LayerNorm(name="ln_1")(x), visible)
        return x + mlp(LayerNorm(name="ln_2")(x))


class ForkedLayerNorm(nn.Module):
    """`LayerNorm` that also returns its input, see `fused_gradients`."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"]
    ) -> tuple[Float[Array, "B L D"], Float[Array, "B L D"]]:
        """Returns the input, and its normal form in the same dtype."""
        width = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, width)
        bias = self.param("bias", nn.initializers.zeros, width)
        return forked_layer_norm(x, scale, bias)


def rematerialized(
    block: Any, policy: str, static_argnums: tuple[int, ...] = ()
) -> Any:
    """Returns a module that recomputes its activations in the backward pass.

    Args:
      block: module class.
      policy: key of `REMAT_POLICIES`. 'none' keeps all activations, 'full' those
        between blocks only, 'dots' also every matrix product, 'dots_no_batch' those
        with a parameter (not attention's).
      static_argnums: arguments of the call that are not arrays, self included.
    """
    if policy == "none":
        return block
    return nn.remat(block, policy=REMAT_POLICIES[policy], static_argnums=static_argnums)


def residual_blocks(
    x: Float[Array, "B L D"],
    visible: Bool[Array, "#B 1 L L"] | None,
    tower: Any,
) -> Float[Array, "B L D"]:
    """Applies the transformer of a tower, `resblocks_0`, `resblocks_1`, ...

    Args:
      x: input of the first block.
      visible: see :func:`attention.attend`.
      tower: compact module that calls this and owns the blocks. Its fields are layers,
        heads, mlp_width, activation, dtype, remat and target.
    """
    block = rematerialized(ResidualBlock, tower.remat)
    out_std = (2 * tower.layers * x.shape[-1]) ** -0.5
    sizes = (tower.heads, tower.mlp_width, tower.activation, out_std)
    for layer in range(tower.layers):
        x = block(*sizes, tower.dtype, tower.target, name=f"resblocks_{layer}")(
            x, visible
        )
    return x
