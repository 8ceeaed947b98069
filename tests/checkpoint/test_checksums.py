import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vl_ltr_jax.checkpoint import checksums
from vl_ltr_jax.runtime import mesh as meshes


def plain(array):
    """The definition, in Python's integers."""
    words = np.ascontiguousarray(array)
    kind = {1: np.uint8, 2: np.uint16, 4: np.uint32}[words.dtype.itemsize]
    total = 0
    for place, word in enumerate(words.view(kind).ravel().tolist()):
        weight = (place ^ place >> 16) * 0x85EBCA6B % 2**32
        weight = (weight ^ weight >> 13) * 0xC2B2AE35 % 2**32
        total += word * ((weight ^ weight >> 16) | 1)
    return total % 2**32


@pytest.mark.parametrize(
    "dtype", [np.float32, jnp.bfloat16, np.int32, np.uint8, np.bool_]
)
@pytest.mark.parametrize("shape", [(), (0, 3), (5, 1, 300)])
def test_a_checksum_follows_its_definition(dtype, shape):
    """Breaks if a weight, the order of places, or the width of a word changes."""
    values = np.random.default_rng(0).normal(0, 50, shape)
    array = np.asarray(values > 0 if dtype == np.bool_ else values.astype(dtype))
    assert int(checksums.checksum(array)) == plain(array)


def test_a_checksum_does_not_depend_on_the_layout():
    array = np.random.default_rng(0).normal(size=(16, 24)).astype(np.float32)
    expected = int(checksums.checksum(array))
    for mesh in (meshes.make_mesh(8, 1), meshes.make_mesh(2, 4)):
        tree = {"kernel": array}
        shardings = meshes.shard_largest_axis(mesh, tree, min_elements=1)
        assert checksums.compute(meshes.place(tree, shardings)) == {"kernel": expected}


def test_a_flipped_bit_and_a_swap_change_the_checksum():
    array = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    expected = int(checksums.checksum(array))
    words = array.view(np.uint32)
    flipped = words[None] ^ (
        np.eye(32, dtype=np.uint32).reshape(32, 4, 8)[None]
        << np.arange(32, dtype=np.uint32)[:, None, None, None]
    ).reshape(-1, 4, 8)
    sums = jax.vmap(checksums.checksum)(flipped.view(np.float32))
    assert len(flipped) == 1024 and expected not in np.asarray(sums)
    swapped = array[::-1]
    assert int(checksums.checksum(swapped)) != expected


def test_damage_is_named():
    tree = {"a": np.ones(3, np.float32), "b": np.ones(4, np.float32)}
    record = checksums.record(tree, {"seconds": 3})
    assert checksums.damage(tree, record) == ""
    assert checksums.damage({"a": tree["a"]}, record) == ""  # the model alone
    assert "b" in checksums.damage({**tree, "b": tree["b"] * 2}, record)
    assert "meta" in checksums.damage(tree, {**record, "meta": {"seconds": 4}})
    assert checksums.damage(tree, {"meta": {}, "checksums": {}})
