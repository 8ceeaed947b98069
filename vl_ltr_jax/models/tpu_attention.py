"""Attention of short sequences as one TPU kernel, which keeps no logits in memory.

XLA's form of two blocks of ViT-B/16 spends 37 % of its cycles on attention, by the
compiler's estimate: products of 197 x 64 fill a quarter of a matrix unit, and the
logits travel to memory six times. Here a program holds whole sequences, and the 128
lanes of one head or several: [n, L, 128] of the projections' own [B, L, D], so nothing
is transposed. A head of 64 is chosen by zeroing the other lanes of a factor. That costs
a matrix unit nothing, which is 128 wide.

Held against the plain form in the interpreter. No TPU has run it yet.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float

LANES = 128
MAX_LENGTH = 785  # tokens whose logits fit into a v4 core's memory; 1024 do not
_TOKENS = 1024  # of a program, about
_FAR = -1e30
_MEMORY = 64 * 2**20


def suits(queries: Float[Array, "B L D"], heads: int) -> bool:
    """Returns True where whole heads fill the lanes, in bfloat16."""
    _, length, width = queries.shape
    heads_fill = width % LANES == 0 and LANES % (width // heads) == 0
    return queries.dtype == jnp.bfloat16 and heads_fill and length <= MAX_LENGTH


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def attend(
    queries: Float[Array, "B L D"],
    keys: Float[Array, "B L D"],
    values: Float[Array, "B L D"],
    visible: Bool[Array, "#B 1 L L"] | None,
    heads: int,
    interpret: bool = False,
) -> Float[Array, "B L D"]:
    """Returns what `attention.attend` does, on one device.

    Args:
      queries: projected queries.
      keys: projected keys.
      values: projected values.
      visible: True where a query attends to a key, at least once for each query.
      heads: a divisor of D.
      interpret: True to run on a CPU.
    """
    arrays = (queries, keys, values)
    return _call(_forward, arrays, visible, 1, heads, interpret)[0]


def _attend_forward(
    queries: Array,
    keys: Array,
    values: Array,
    visible: Array | None,
    heads: int,
    interpret: bool,
) -> tuple[Array, tuple[Any, ...]]:
    arrays = (queries, keys, values, visible)
    return attend(*arrays, heads, interpret), arrays


def _attend_backward(
    heads: int, interpret: bool, saved: tuple[Any, ...], gradient: Array
) -> tuple[Any, ...]:
    *arrays, visible = saved
    if visible is not None:
        visible = visible.swapaxes(-1, -2)
    inputs = (*arrays, gradient)
    return *_call(_backward, inputs, visible, 3, heads, interpret), None


attend.defvjp(_attend_forward, _attend_backward)


def _forward(q_ref: Any, k_ref: Any, v_ref: Any, *refs: Any, width: int) -> None:
    *masks, out_ref = refs
    for n in range(q_ref.shape[0]):
        q, k, v = q_ref[n], k_ref[n], v_ref[n]
        mixed = jnp.zeros(q.shape, jnp.float32)
        total = jnp.zeros(q.shape, jnp.float32)
        for head in range(LANES // width):
            own = _lanes(head, width)
            logits = _dot(q, jnp.where(own, k, 0), (1, 1))
            weights, sums = _exponentials(logits, masks, n, width, axis=1)
            mixed += _dot(weights.astype(v.dtype), jnp.where(own, v, 0), (1, 0))
            total = jnp.where(own, sums, total)
        out_ref[n] = (mixed / total).astype(out_ref.dtype)


def _backward(
    q_ref: Any, k_ref: Any, v_ref: Any, g_ref: Any, *refs: Any, width: int
) -> None:
    # Logits are [keys, queries] here: sums over keys add whole registers.
    *masks, dq_ref, dk_ref, dv_ref = refs
    for n in range(q_ref.shape[0]):
        q, k, v, g = q_ref[n], k_ref[n], v_ref[n], g_ref[n]
        dq, dk, dv = (jnp.zeros(q.shape, jnp.float32) for _ in range(3))
        for head in range(LANES // width):
            own = _lanes(head, width)
            own_q, own_k, own_g = (jnp.where(own, x, 0) for x in (q, k, g))
            logits = _dot(k, own_q, (1, 1))
            weights, sums = _exponentials(logits, masks, n, width, axis=0)
            weights = weights * (1 / sums)
            d_weights = _dot(v, own_g, (1, 1))
            mean = jnp.sum(weights * d_weights, axis=0, keepdims=True)
            d_logits = (weights * (d_weights - mean)).astype(q.dtype)
            dv += _dot(weights.astype(g.dtype), own_g, (1, 0))
            dk += _dot(d_logits, own_q, (1, 0))
            dq += _dot(d_logits, own_k, (0, 0))
        scale = width**-0.5
        dq_ref[n] = (dq * scale).astype(dq_ref.dtype)
        dk_ref[n] = (dk * scale).astype(dk_ref.dtype)
        dv_ref[n] = dv.astype(dv_ref.dtype)


def _lanes(head: int, width: int) -> Array:
    lane = jax.lax.broadcasted_iota(jnp.int32, (1, LANES), 1)
    return (lane >= head * width) & (lane < (head + 1) * width)


def _dot(a: Array, b: Array, axes: tuple[int, int]) -> Array:
    # Said for bfloat16 too: a kernel cannot obey `jax_default_matmul_precision`.
    exact = jax.lax.Precision.DEFAULT
    if a.dtype == jnp.float32:
        exact = jax.lax.Precision.HIGHEST
    return jax.lax.dot_general(
        a,
        b,
        (((axes[0],), (axes[1],)), ((), ())),
        precision=exact,
        preferred_element_type=jnp.float32,
    )


def _exponentials(
    logits: Array, masks: list[Any], n: int, width: int, axis: int
) -> tuple[Array, Array]:
    """Returns exp of scaled logits less their maximum, and the sums over keys."""
    for mask in masks:
        visible = mask[min(n, mask.shape[0] - 1), 0].astype(jnp.int32)
        logits = jnp.where(visible != 0, logits, _FAR)
    scale = width**-0.5 * math.log2(math.e)
    highest = jnp.max(logits, axis=axis, keepdims=True)
    weights = jnp.exp2((logits - highest) * scale)
    return weights, jnp.sum(weights, axis=axis, keepdims=True)


def _call(
    kernel: Callable[..., None],
    arrays: tuple[Array, ...],
    visible: Array | None,
    num_outputs: int,
    heads: int,
    interpret: bool,
) -> tuple[Array, ...]:
    batch, length, width = arrays[0].shape
    # A power of two that divides the batch, so that programs are of one size.
    sequences = math.gcd(batch, 2 ** max(int(math.log2(_TOKENS / length)), 0))
    block = pl.BlockSpec((sequences, length, LANES), lambda i, j: (i, 0, j))
    specs = [block] * len(arrays)
    if visible is not None:
        shared = visible.shape[0] == 1
        shape = (1 if shared else sequences, 1, length, length)
        specs.append(pl.BlockSpec(shape, lambda i, j: (0 if shared else i, 0, 0, 0)))
        arrays = (*arrays, visible.astype(jnp.int8))
    output = jax.ShapeDtypeStruct(
        (batch, length, width),
        arrays[0].dtype,
        manual_axis_type=jax.typeof(arrays[0]).manual_axis_type,
    )
    outputs = pl.pallas_call(
        functools.partial(kernel, width=width // heads),
        grid=(batch // sequences, width // LANES),
        in_specs=specs,
        out_specs=[block] * num_outputs,
        out_shape=[output] * num_outputs,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel"), vmem_limit_bytes=_MEMORY
        ),
        # Two products forward, and with the logits again five backward.
        cost_estimate=pl.CostEstimate(
            flops=(4 if num_outputs == 1 else 10) * batch * length**2 * width,
            transcendentals=batch * heads * length**2,
            bytes_accessed=2 * batch * length * width * (len(specs) + num_outputs),
        ),
        interpret=interpret,
        name=f"attention{kernel.__name__}",
    )(*arrays)
    return tuple(outputs)
