"""Checksums of arrays, by which a checkpoint knows that it is what was saved.

Neither Orbax nor TensorStore notices a flipped byte in an array's file, and a file that
is missing may read as zeros. A checksum is a sum modulo 2^32 of the array's bits in
words of up to 32, each times an odd weight made of its place: exact, so that it does
not depend on how an array is split over devices, and one flipped word always changes
it; a greater damage goes unseen once in 2^32. It is computed where the array lies.
"""

import dataclasses
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
    """The checksum of one array of items of at most 32 bits."""
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
    # The finaliser of MurmurHash3: neighbours get weights that have nothing in common.
    weight = (place ^ (place >> 16)) * np.uint32(0x85EBCA6B)
    weight = (weight ^ (weight >> 13)) * np.uint32(0xC2B2AE35)
    weight = (weight ^ (weight >> 16)) | np.uint32(1)
    return jnp.sum(words * weight, dtype=jnp.uint32)


def of(tree: Any) -> dict[str, int]:
    """Checksums of all arrays of a tree, under their paths `a/b/c`.

    To be called in every process, where arrays are split over several.
    """
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    names = [
        jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths
    ]
    sums = []
    for _, leaf in paths:
        sums.append(checksum(leaf))
        if not getattr(leaf, "is_fully_replicated", True):
            # On a CPU, sums over some of the devices may wait for others for good.
            sums[-1].block_until_ready()
    whole = jax.device_get(sums)
    return {name: int(one) for name, one in zip(names, whole, strict=True)}


def damage(found: Mapping[str, int], saved: Mapping[str, int]) -> str:
    """Which arrays are not what was saved, in words, or nothing.

    Args:
      found: checksums of arrays that were read.
      saved: those that were saved with them; one that is missing is not compared.
    """
    damaged = [name for name, one in found.items() if saved.get(name, one) != one]
    if not damaged:
        return ""
    return f"{len(damaged)} arrays are not what was saved, the first is {damaged[0]}"


@dataclasses.dataclass(frozen=True)
class Record:
    """What lies in a checkpoint beside the arrays."""

    meta: dict[str, Any]
    checksums: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """The content of the item `meta`."""
        return {**dataclasses.asdict(self), "crc32": self._crc32()}

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Record":
        """Reads it back; the oldest checkpoints have the caller's mapping alone.

        Raises:
          ValueError: if it is not what was saved.
        """
        keys = {"meta", "checksums", "crc32"}
        if not content.keys() & keys:
            return cls(dict(content), {})
        if content.keys() == keys:
            record = cls(content["meta"], content["checksums"])
            if record._crc32() == content["crc32"]:
                return record
        raise ValueError("meta is not what was saved")

    def _crc32(self) -> int:
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return zlib.crc32(text.encode())
