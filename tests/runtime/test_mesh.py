import functools
import itertools
import threading

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from vl_ltr_jax.runtime import mesh as meshes


def test_the_mesh_takes_every_device_with_auto_axes():
    mesh = meshes.make_mesh()
    assert dict(mesh.shape) == {"data": 8, "model": 1}
    assert mesh.axis_types == (AxisType.Auto, AxisType.Auto)
    assert dict(meshes.make_mesh(model=2).shape) == {"data": 4, "model": 2}
    assert dict(meshes.make_mesh(model=0).shape) == {"data": 8, "model": 1}
    assert dict(meshes.make_mesh(2, 0).shape) == {"data": 2, "model": 4}
    single = meshes.make_mesh(devices=jax.devices()[:1])
    assert dict(single.shape) == {"data": 1, "model": 1}


def test_a_layout_in_words():
    """Breaks if the log of a run hides that its parameters are split."""
    mesh = meshes.make_mesh(4, 2)
    assert meshes.describe(mesh, "data").endswith("split over data")
    assert meshes.describe(mesh, "auto").endswith("whole on each")
    assert "8 cpu (data 4 x model 2)" in meshes.describe(mesh, "none")
    assert meshes.describe(meshes.make_mesh(), "model").endswith("whole on each")
    alone = meshes.make_mesh(devices=jax.devices()[:1])
    assert meshes.describe(alone, "auto") == "1 cpu"


@pytest.mark.parametrize(
    ("data", "model", "named"),
    [
        (4, 4, "mesh.data=2"),  # would fit
        (-1, 3, "mesh.model=3"),
        (3, 0, "mesh.data=3"),
        (0, 1, "mesh.data=0"),
        (0, 0, "mesh.data=0"),
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


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((1024, 64), ["data"]),
        ((64, 1024), [None, "data"]),
        ((1001, 512), [None, "data"]),  # the largest does not divide
        ((1001, 77), []),
        ((8, 8), []),  # small
    ],
)
def test_the_largest_divisible_axis_is_sharded(shape, axes):
    mesh, host = meshes.make_mesh(), {"kernel": np.zeros(shape, np.float32)}
    shardings = meshes.shard_largest_axis(mesh, host)
    placed = meshes.place(host, shardings)["kernel"]
    assert placed.sharding.spec == PartitionSpec(*axes)
    size = placed.size // (8 if axes else 1)
    assert placed.addressable_shards[0].data.size == size


def test_batches_are_prefetched_in_order():
    ahead = threading.Event()

    def host_batches():
        for number in range(5):
            yield {"x": np.full((8, 2), number)}
            ahead.set()

    batches = meshes.prefetch(meshes.make_mesh(), host_batches(), size=2)
    first = next(batches)
    assert isinstance(first["x"], jax.Array)
    assert ahead.wait(60)  # the second is requested before its use
    assert [int(batch["x"][0, 0]) for batch in (first, *batches)] == list(range(5))


def test_an_error_of_the_loader_comes_when_its_batch_is_due():
    def host_batches():
        yield {"x": np.zeros((8, 2))}
        raise ValueError("no image")

    batches = meshes.prefetch(meshes.make_mesh(), host_batches())
    next(batches)
    with pytest.raises(ValueError, match="no image"):
        next(batches)


def test_endless_batches_close_without_waiting():
    endless = itertools.repeat({"x": np.zeros((8, 2))})
    batches = meshes.prefetch(meshes.make_mesh(), endless)
    next(batches)
    batches.close()
