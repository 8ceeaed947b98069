"""Exact accumulation: a global batch too large for the devices, embedded in chunks.

The losses need all embeddings of a batch but no activations, so a chunk frees its own.
The backward pass embeds it again, with the gradient of the losses of the whole batch.
Value and gradient are those of the undivided batch; the price is one more forward pass.
Not in the paper.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from vl_ltr_jax.runtime import mesh as meshes


def embed(
    function: Callable[[Any, Any], Any],
    shared: Any,
    rows: Any,
    num_chunks: int,
    mesh: jax.sharding.Mesh,
) -> Any:
    """Embeds rows that do not depend on each other.

    Each device visits chunks of its own rows. The gradient of `shared` is summed over
    the devices once, not once for each chunk.

    Args:
      function: from `shared` and a chunk of `rows` to arrays of one row each.
      shared: arrays that every row reads, parameters for instance.
      rows: arrays [B, ...], all split over the mesh.
      num_chunks: 1 keeps the batch undivided, with its activations.
      mesh: devices; B is a multiple of their number times `num_chunks`.
    """
    if num_chunks == 1:
        return function(shared, rows)

    def local(shared: Any, rows: Any) -> Any:
        # JAX sums the gradient of a replicated array over devices at this cast:
        # here, outside the loop.
        shared = jax.tree.map(_varying, shared)
        _, embedded = jax.lax.scan(
            jax.checkpoint(lambda _, chunk: (None, function(shared, chunk))),
            None,
            cut(rows, num_chunks),
        )
        return join(embedded)

    split = PartitionSpec(meshes.ROWS)
    return jax.shard_map(
        local, mesh=mesh, in_specs=(PartitionSpec(), split), out_specs=split
    )(shared, rows)


def embed_in_turn(
    function: Callable[[Any, Any], tuple[Any, Any]],
    carry: Any,
    rows: Any,
    num_chunks: int,
    mesh: jax.sharding.Mesh,
) -> tuple[Any, Any]:
    """Embeds chunks one after the other, each with statistics over all devices.

    Args:
      function: from a carry and a chunk of the global batch to the next carry and
        arrays of one row each.
      carry: for the first chunk; running statistics, for instance.
      rows: as in :func:`embed`.
      num_chunks: as in :func:`embed`.
      mesh: devices.

    Returns:
      The last carry, and the arrays of all chunks in the order of the rows.
    """
    if num_chunks == 1:
        return function(carry, rows)
    chunks = meshes.split_rows(mesh, cut(rows, num_chunks), axis=1)
    carry, embedded = jax.lax.scan(jax.checkpoint(function), carry, chunks)
    return carry, meshes.split_rows(mesh, join(embedded))


def cut(rows: Any, num_chunks: int) -> Any:
    """Reshapes [B, ...] to [num_chunks, B / num_chunks, ...].

    Row i is in chunk i % num_chunks, so each device's chunk is of its own rows.
    """
    return jax.tree.map(
        lambda leaf: leaf.reshape(-1, num_chunks, *leaf.shape[1:]).swapaxes(0, 1), rows
    )


def join(chunks: Any) -> Any:
    """Undoes :func:`cut`."""
    return jax.tree.map(
        lambda leaf: leaf.swapaxes(0, 1).reshape(-1, *leaf.shape[2:]), chunks
    )


def _varying(leaf: jax.Array) -> jax.Array:
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return leaf
    return jax.lax.pcast(leaf, meshes.ROWS, to="varying")
