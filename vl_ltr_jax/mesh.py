"""Devices as one mesh with the axes `data` and `model`, and arrays on and off it.

The only place that builds a `Mesh` or a `NamedSharding`. Axes are Auto: the
contrastive product multiplies two batches that are both sharded over `data`, which
explicit axes reject and automatic partitioning computes without repeating a block.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

# Below this many elements a leaf costs less to replicate than to gather.
MIN_SHARDED_ELEMENTS = 2**16


class MeshError(ValueError):
    """Axes that do not fit the devices, or a batch that does not fit the axes."""


def make_mesh(
    data: int = -1, model: int = 1, *, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Arranges every device (or those given) as `data` x `model`.

    Args:
        data: devices that split the batch; -1 takes what `model` leaves.
        model: devices that split the classes of a head, within one process.
        devices: the devices to use, all of them by default.

    Raises:
        MeshError: the two sizes do not multiply to the number of devices, or
            `model` spans processes.
    """
    devices = jax.devices() if devices is None else list(devices)
    count = len(devices)
    if model < 1 or (data < 1 and data != -1):
        raise MeshError(
            f"mesh.data={data}, mesh.model={model}: both must be positive"
            " (mesh.data may be -1: whatever mesh.model leaves)"
        )
    divisors = [n for n in range(1, count + 1) if count % n == 0]
    if count % model:
        raise MeshError(
            f"mesh.model={model} does not divide the {count} devices:"
            f" use one of {divisors}"
        )
    data = count // model if data == -1 else data
    if data * model != count:
        raise MeshError(
            f"mesh.data={data} times mesh.model={model} is {data * model}, but there"
            f" are {count} devices: set mesh.data={count // model} or mesh.data=-1"
        )
    per_process = count // len({device.process_index for device in devices})
    if per_process % model:
        raise MeshError(
            f"mesh.model={model} must divide the {per_process} devices of a process,"
            " so that each process feeds rows of its own"
        )
    # In order of processes, so that the rows a process feeds lie together:
    # `jax.make_mesh` reorders TPU devices by their place in the torus.
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    return Mesh(
        np.array(ordered).reshape(data, model),
        ("data", "model"),
        axis_types=(AxisType.Auto, AxisType.Auto),
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis split over `data`."""
    return NamedSharding(mesh, PartitionSpec("data"))


def class_sharding(mesh: Mesh, num_classes: int) -> NamedSharding:
    """The leading axis, classes, split over `model` where it divides evenly."""
    axis = "model" if num_classes % mesh.shape["model"] == 0 else None
    return NamedSharding(mesh, PartitionSpec(axis))


def shard_largest_axis(
    mesh: Mesh, tree: Any, *, min_elements: int = MIN_SHARDED_ELEMENTS
) -> Any:
    """Shardings that spread a tree of parameters or moments over `data` (FSDP).

    Each leaf splits its largest axis that the mesh divides (the first of equals);
    leaves under `min_elements`, or without such an axis, stay replicated.

    Args:
        mesh: the mesh.
        tree: arrays or `ShapeDtypeStruct`s.
        min_elements: the smallest leaf worth splitting.

    Returns:
        The same tree with a `NamedSharding` for each leaf.
    """
    size = mesh.shape["data"]

    def rule(leaf: Any) -> NamedSharding:
        axes = [axis for axis, n in enumerate(leaf.shape) if n % size == 0]
        if not axes or leaf.size < min_elements:
            return replicated(mesh)
        largest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * largest, "data"))

    return jax.tree.map(rule, tree)


def place(tree: Any, shardings: Any) -> Any:
    """Puts host arrays, equal in every process, on the mesh.

    Args:
        tree: numpy arrays, whole in every process.
        shardings: one sharding for all leaves, or a tree of them.

    Returns:
        The same tree of global arrays. Each device receives only its own part.
    """

    def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

    if isinstance(shardings, NamedSharding):
        return jax.tree.map(lambda leaf: put(leaf, shardings), tree)
    return jax.tree.map(put, tree, shardings)


def to_global(mesh: Mesh, host_batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Joins the rows each process read into global arrays, split over `data`.

    Args:
        mesh: the mesh.
        host_batch: this process's rows of each array, `[b, ...]`, as many in every
            process.

    Raises:
        MeshError: the global batch does not divide over the `data` axis.
    """
    sharding = batch_sharding(mesh)
    processes = len({device.process_index for device in mesh.devices.flat})
    for name, rows in host_batch.items():
        total = len(rows) * processes
        if total % mesh.shape["data"]:
            raise MeshError(
                f"the batch's {name!r} has {total} rows over all processes, which"
                f" mesh.data={mesh.shape['data']} does not divide: choose a batch size"
                " that is a multiple of it"
            )
    return {
        name: jax.make_array_from_process_local_data(sharding, np.asarray(rows))
        for name, rows in host_batch.items()
    }


def to_host(tree: Any) -> Any:
    """Fetches a tree of global arrays as whole numpy arrays, in every process.

    Every process must call it: leaves spread over processes are gathered.
    """

    def fetch(leaf: Any) -> np.ndarray:
        if not isinstance(leaf, jax.Array):
            return np.asarray(leaf)
        if leaf.is_fully_addressable or leaf.is_fully_replicated:
            return np.asarray(jax.device_get(leaf))
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))

    return jax.tree.map(fetch, tree)
