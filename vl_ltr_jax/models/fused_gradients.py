"""Two layers with gradients of their own, which a TPU computes in fewer passes.

Values and gradients are those of the plain layers. Cycles are of two blocks of
ViT-B/16, forward and backward, 128 x 197 tokens, by the TPU compiler's estimate.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

EPSILON = 1e-5  # of CLIP's LayerNorm


@jax.custom_vjp
def forked_layer_norm(
    stream: Float[Array, "*B D"], scale: Float[Array, " D"], bias: Float[Array, " D"]
) -> tuple[Float[Array, "*B D"], Float[Array, "*B D"]]:
    """Returns a residual stream and its LayerNorm, computed in float32.

    The backward pass adds the gradients of both in one visit of the stream, where XLA
    takes three: 23.4 in place of 26.0 million cycles.
    """
    return _normalise(stream, scale, bias)[0]


def _normalise(stream: Array, scale: Array, bias: Array) -> tuple[Any, Any]:
    wide = stream.astype(jnp.float32)
    mean = jnp.mean(wide, axis=-1, keepdims=True)
    centred = wide - mean
    variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
    rate = jax.lax.rsqrt(variance + EPSILON)
    scale_row, bias_row = (jnp.broadcast_to(x, wide.shape) for x in (scale, bias))
    normal = (centred * rate * scale_row + bias_row).astype(stream.dtype)
    return (stream, normal), (stream, scale, mean, rate)


def _normalise_backward(saved: Any, gradients: tuple[Array, Array]) -> Any:
    stream, scale, mean, rate = saved
    straight, gradient = (g.astype(jnp.float32) for g in gradients)
    unit = (stream.astype(jnp.float32) - mean) * rate
    rows = tuple(range(stream.ndim - 1))
    d_scale, d_bias = jnp.sum(gradient * unit, rows), jnp.sum(gradient, rows)
    gradient = gradient * jnp.broadcast_to(scale, gradient.shape)
    along = jnp.mean(gradient * unit, axis=-1, keepdims=True)
    across = jnp.mean(gradient, axis=-1, keepdims=True)
    d_stream = straight + rate * (gradient - across - unit * along)
    return d_stream.astype(stream.dtype), d_scale, d_bias


forked_layer_norm.defvjp(_normalise, _normalise_backward)


@jax.custom_vjp
def add_bias(
    rows: Float[Array, "*B F"], bias: Float[Array, " F"]
) -> Float[Array, "*B F"]:
    """Returns rows plus a bias, whose gradient is a product with ones.

    XLA cannot fuse a sum into a kernel's output. Alone, the sum takes 0.51 million
    cycles, the product 0.05.
    """
    return rows + jnp.broadcast_to(bias.astype(rows.dtype), rows.shape)


def _add_bias_forward(rows: Array, bias: Array) -> tuple[Array, Array]:
    return add_bias(rows, bias), bias


def _add_bias_backward(bias: Array, gradient: Array) -> tuple[Array, Array]:
    axes = tuple(range(gradient.ndim - 1))
    sums = jax.lax.dot_general(
        jnp.ones((*gradient.shape[:-1], 8), gradient.dtype),
        gradient,
        ((axes, axes), ((), ())),
        precision="highest" if gradient.dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )
    return gradient, sums[0].astype(bias.dtype)


add_bias.defvjp(_add_bias_forward, _add_bias_backward)
