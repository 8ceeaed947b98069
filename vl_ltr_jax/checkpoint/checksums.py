"""Checksums of arrays, computed on the devices that hold them.

Neither Orbax nor TensorStore notices a flipped byte in an array's file, and a missing
file may read as zeros. A checksum is a sum modulo 2^32 over the array's words of up to
32 bits. Each word is multiplied by an odd weight made of its place. The sum is exact:
it does not depend on how an array is split over devices. One flipped word always
changes it; a greater damage goes unseen once in 2^32.
"""

import json
import math
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped, UInt32

_WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


@jax.jit
def checksum(array: Shaped[Array | np.ndarray, "*shape"]) -> UInt32[Array, ""]:
    """Returns the checksum of one array of items of at most 32 bits."""
    array = jnp.asarray(array)
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    word = _WORDS[array.dtype.itemsize]
    words = jax.lax.bitcast_convert_type(array, word).astype(jnp.uint32)
    place = jnp.zeros(words.shape, jnp.uint32)
    for axis in range(words.ndim):
        stride = math.prod(words.shape[axis + 1 :]) % 2**32
        along = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        place += along * np.uint32(stride)
    # The finaliser of MurmurHash3: weights of neighbours are unrelated.
    weight = (place ^ (place >> 16)) * np.uint32(0x85EBCA6B)
    weight = (weight ^ (weight >> 13)) * np.uint32(0xC2B2AE35)
    weight = (weight ^ (weight >> 16)) | np.uint32(1)
    return jnp.sum(words * weight, dtype=jnp.uint32)


def compute(tree: Any) -> dict[str, int]:
    """Returns checksums of all arrays of a tree, under their paths `a/b/c`.

    Every process must call it if arrays are split over several.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    sums = {}
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        sums[name] = checksum(leaf)
        if not getattr(leaf, "is_fully_replicated", True):
            # On a CPU, sums over some of the devices may wait for others for good.
            sums[name].block_until_ready()
    return {name: int(value) for name, value in jax.device_get(sums).items()}


def record(tree: Any, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of the item `meta`: a mapping, and checksums of all."""
    return {"meta": dict(meta), "checksums": {**compute(tree), "meta": _crc32(meta)}}


def damage(tree: Any, record: Mapping[str, Any]) -> str:
    """Returns a message if arrays or meta are not those of a record, else nothing."""
    sums, saved = {**compute(tree), "meta": _crc32(record["meta"])}, record["checksums"]
    damaged = [name for name, value in sums.items() if saved.get(name) != value]
    if not damaged:
        return ""
    return f"{len(damaged)} arrays are not what was saved, the first is {damaged[0]}"


def _crc32(meta: Any) -> int:
    return zlib.crc32(json.dumps(meta, sort_keys=True).encode())
