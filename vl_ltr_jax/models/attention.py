"""Multi-head attention, in the form that suits the devices of a program."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from vl_ltr_jax.models import tpu_attention
from vl_ltr_jax.runtime import mesh as meshes


class Target(NamedTuple):
    """Devices that a program is compiled for; every form has the same values.

    Attributes:
      platform: 'cpu', 'tpu' or 'gpu'; '' for that of this process.
      mesh: devices that split the batch; None for one device, and no kernels.
    """

    platform: str = ""
    mesh: jax.sharding.Mesh | None = None

    @property
    def is_cpu(self) -> bool:
        """True for CPUs."""
        return (self.platform or jax.default_backend()) == "cpu"


HERE = Target()
_AMPERE = 8.0  # compute capability of the first cards with bfloat16


def target_of(mesh: jax.sharding.Mesh) -> Target:
    """Returns the target of a mesh."""
    return Target(mesh.devices.flat[0].platform, mesh)


def attend(
    queries: Float[Array, "B Q D"],
    keys: Float[Array, "B K D"],
    values: Float[Array, "B K D"],
    heads: int,
    visible: Bool[Array, "#B 1 Q K"] | None = None,
    target: Target = HERE,
) -> Float[Array, "B Q D"]:
    """Returns multi-head dot-product attention; the softmax is in float32.

    On CPUs heads come before positions, which turns both products into plain batched
    matrix products. Other compilers choose the order of axes. There the logits, kept
    for the backward pass, have the compute dtype. On TPUs a kernel keeps none, on
    NVIDIA's cards cuDNN.

    Args:
      queries: projected queries.
      keys: projected keys.
      values: projected values.
      heads: number of heads H, a divisor of D.
      visible: True where a query attends to a key; None for everywhere.
      target: devices of the program.
    """
    arrays = (queries, keys, values, visible)
    if target.is_cpu:
        return _heads_first(queries, keys, values, heads, visible)
    if queries.shape == keys.shape and _splits(queries, target):
        if target.platform == "tpu" and tpu_attention.suits(queries, heads):
            return _on_each_device(tpu_attention.attend, target, heads, *arrays)
        if target.platform == "gpu" and _suits_cudnn(queries, heads, target):
            return _on_each_device(_cudnn, target, heads, *arrays)
    queries, keys, values = (_by_head(x, heads) for x in (queries, keys, values))
    scaled = queries * queries.shape[-1] ** -0.5
    logits = jnp.einsum("bqhd,bkhd->bhqk", scaled, keys)
    weights = _weights(logits.astype(jnp.float32), visible, values.dtype)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, values)
    return mixed.reshape(*mixed.shape[:2], -1)


def _heads_first(
    queries: Array, keys: Array, values: Array, heads: int, visible: Array | None
) -> Array:
    queries, keys, values = (
        _by_head(x, heads).transpose(0, 2, 1, 3) for x in (queries, keys, values)
    )
    logits = jnp.matmul(
        queries * queries.shape[-1] ** -0.5,
        keys.swapaxes(-1, -2),
        preferred_element_type=jnp.float32,
    )
    mixed = (_weights(logits, visible, values.dtype) @ values).transpose(0, 2, 1, 3)
    return mixed.reshape(*mixed.shape[:2], -1)


def _by_head(x: Float[Array, "B L D"], heads: int) -> Float[Array, "B L H d"]:
    return x.reshape(*x.shape[:2], heads, x.shape[2] // heads)


def _weights(
    logits: Float[Array, "B H Q K"],
    visible: Bool[Array, "#B 1 Q K"] | None,
    dtype: DTypeLike,
) -> Float[Array, "B H Q K"]:
    if visible is not None:
        logits = jnp.where(visible, logits, -jnp.inf)
    return jax.nn.softmax(logits, axis=-1).astype(dtype)


def _splits(queries: Array, target: Target) -> bool:
    """Returns True if the devices of a target share the sequences equally."""
    return target.mesh is not None and (
        _is_local() or queries.shape[0] % target.mesh.size == 0
    )


def _is_local() -> bool:
    """Returns True inside a `shard_map`, whose arrays are those of one device."""
    return bool(set(meshes.ROWS) & set(jax.sharding.get_abstract_mesh().manual_axes))


def _suits_cudnn(queries: Array, heads: int, target: Target) -> bool:
    """Returns True for bfloat16 on NVIDIA's cards since Ampere."""
    if target.mesh is None or queries.dtype != jnp.bfloat16:
        return False
    card = target.mesh.devices.flat[0]
    capability = float(getattr(card, "compute_capability", _AMPERE))
    width = queries.shape[-1] // heads
    is_recent = "NVIDIA" in card.device_kind and capability >= _AMPERE
    return is_recent and width <= 128 and width % 8 == 0


def _cudnn(
    queries: Array, keys: Array, values: Array, visible: Array | None, heads: int
) -> Array:
    """Attention by cuDNN, which keeps no logits; it needs an even number of tokens."""
    batch, length, _ = queries.shape
    added = -length % 8

    def padded(x: Array) -> Array:
        return jnp.pad(_by_head(x, heads), ((0, 0), (0, added), (0, 0), (0, 0)))

    if visible is not None:
        visible = jnp.pad(visible, ((0, 0), (0, 0), (0, added), (0, added)))
    lengths = jnp.full(batch, length, jnp.int32)
    mixed = jax.nn.dot_product_attention(
        padded(queries),
        padded(keys),
        padded(values),
        mask=visible,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        implementation="cudnn",
    )
    return mixed[:, :length].reshape(queries.shape)


def _on_each_device(
    function: Callable[..., Array],
    target: Target,
    heads: int,
    queries: Array,
    keys: Array,
    values: Array,
    visible: Array | None,
) -> Array:
    def local(
        queries: Array, keys: Array, values: Array, visible: Array | None
    ) -> Array:
        return function(queries, keys, values, visible, heads)

    arrays = (queries, keys, values, visible)
    if _is_local():
        return local(*arrays)
    rows = PartitionSpec(meshes.ROWS)
    shared = visible is None or visible.shape[0] == 1
    return jax.shard_map(
        local,
        mesh=target.mesh,
        in_specs=(rows, rows, rows, PartitionSpec() if shared else rows),
        out_specs=rows,
        check_vma=False,  # a kernel does not say along which axes its results vary
    )(*arrays)
