import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from vl_ltr_jax.runtime import mesh as meshes


def test_the_mesh_takes_every_device_with_auto_axes():
    mesh = meshes.make_mesh()
    assert dict(mesh.shape) == {"data": 8, "model": 1}
    assert mesh.axis_types == (AxisType.Auto, AxisType.Auto)
    assert dict(meshes.make_mesh(model=2).shape) == {"data": 4, "model": 2}
    single = meshes.make_mesh(devices=jax.devices()[:1])
    assert dict(single.shape) == {"data": 1, "model": 1}


@pytest.mark.parametrize(
    ("data", "model", "named"),
    [
        (3, 1, "mesh.data=8"),  # would fit
        (4, 4, "mesh.data=2"),
        (-1, 3, "mesh.model=3"),
        (0, 1, "mesh.data=0"),
        (-1, 0, "mesh.model=0"),
    ],
)
def test_impossible_meshes_are_refused(data, model, named):
    with pytest.raises(meshes.MeshError, match=named):
        meshes.make_mesh(data, model)


def test_a_batch_goes_to_the_mesh_and_back():
    mesh = meshes.make_mesh(4, 2)
    batch = {"image": np.arange(24.0).reshape(8, 3), "label": np.arange(8)}
    arrays = meshes.to_global(mesh, batch)
    assert arrays["image"].sharding == meshes.row_sharding(mesh)
    assert arrays["image"].addressable_shards[0].data.shape == (1, 3)
    jax.tree.map(np.testing.assert_array_equal, meshes.to_host(arrays), batch)


def test_a_batch_that_does_not_divide_is_named():
    mesh = meshes.make_mesh()
    with pytest.raises(meshes.MeshError, match="'label'"):
        meshes.to_global(mesh, {"label": np.zeros(6)})


@pytest.mark.parametrize(("axes", "shards"), [("model", 2), (meshes.ROWS, 8)])
def test_rows_that_do_not_divide_are_filled_with_zeros(axes, shards):
    mesh = meshes.make_mesh(4, 2)
    table = np.arange(1, 34.0).reshape(11, 3)
    filled = meshes.shard_rows(mesh, table, axes)
    size = -(-11 // shards)
    assert {s.data.shape for s in filled.addressable_shards} == {(size, 3)}
    host = np.asarray(filled)
    np.testing.assert_array_equal(host[:11], table)
    assert len(host) == size * shards and not host[11:].any()


@pytest.mark.parametrize("shape", [(8, 1), (4, 2), (1, 8)])
def test_rows_are_looked_up_in_a_table_that_no_device_holds(shape):
    """Breaks if a device answers for rows of another, or the order of devices moves."""
    mesh = meshes.make_mesh(*shape)
    table = np.random.default_rng(0).normal(size=(45, 7)).astype(np.float32)
    rows = np.random.default_rng(1).integers(0, 45, 32)
    split = meshes.to_global(mesh, {"rows": rows})["rows"]
    take = jax.jit(functools.partial(meshes.take_rows, mesh))
    result = take(meshes.shard_rows(mesh, table), split)
    assert result.addressable_shards[0].data.shape == (4, 7)
    np.testing.assert_array_equal(result, table[rows])


def test_the_largest_divisible_axis_is_sharded():
    mesh = meshes.make_mesh()
    tree = {
        "rows": jnp.zeros((1024, 64)),
        "columns": jnp.zeros((64, 1024)),
        "largest_does_not_divide": jnp.zeros((1001, 512)),
        "nothing_divides": jnp.zeros((1001, 77)),
        "small": jnp.zeros((8, 8)),
        "scalar": jnp.zeros(()),
    }
    shardings = meshes.shard_largest_axis(mesh, tree)
    specs = {name: sharding.spec for name, sharding in shardings.items()}
    assert specs == {
        "rows": PartitionSpec("data"),
        "columns": PartitionSpec(None, "data"),
        "largest_does_not_divide": PartitionSpec(None, "data"),
        "nothing_divides": PartitionSpec(),
        "small": PartitionSpec(),
        "scalar": PartitionSpec(),
    }
    placed = meshes.place(meshes.to_host(tree), shardings)
    assert placed["columns"].addressable_shards[0].data.shape == (64, 128)


def test_placing_with_one_sharding_replicates_every_leaf():
    mesh = meshes.make_mesh()
    tree = {"kernel": np.arange(6.0).reshape(2, 3), "step": np.int32(4)}
    placed = meshes.place(tree, meshes.replicated(mesh))
    assert all(leaf.is_fully_replicated for leaf in placed.values())
    assert placed["step"].dtype == np.int32
    jax.tree.map(np.testing.assert_array_equal, meshes.to_host(placed), tree)
