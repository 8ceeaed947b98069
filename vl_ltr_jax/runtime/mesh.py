"""Devices as one mesh with the axes `data` and `model`, and arrays on and off it.

The only module that builds a `Mesh` or a `NamedSharding`. Axes are Auto: the
partitioner decides, except in the losses. Every device takes rows of the batch, those
along `model` too; `model` also splits classes and their texts.

Under :func:`describing`, to compile for devices that are absent or not to be used,
functions give `ShapeDtypeStruct`s with shardings in place of arrays.
"""

import collections
import contextlib
import contextvars
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, Shaped

from vl_ltr_jax.runtime import errors
from vl_ltr_jax.runtime.errors import UserError

ROWS = ("data", "model")  # axes that split rows of a batch
# On more TPU chips than these, parameters and moments split over groups of this size.
# By the compiler's estimate for ViT-B/16 at 1,024 pairs on 256 v5e chips, a step takes
# 14.1 ms, collectives included, in place of 18.4 with replicas, and of 22.4 split over
# all: 3 rows of a kernel fill no tile.
_GROUP = 16
# Below this many elements a leaf costs less to replicate than to gather.
MIN_SHARDED_ELEMENTS = 2**16
_DESCRIBES = contextvars.ContextVar("describes", default=False)


class MeshError(UserError):
    """Axes that do not fit the devices, or a batch that does not fit the axes."""


class DeviceError(UserError):
    """No device of the kind that JAX_PLATFORMS asks for."""


def devices() -> list[jax.Device]:
    """Returns all devices.

    Raises:
      DeviceError: the platforms that the environment asks for are absent.
    """
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter has no message
        platforms = jax.config.jax_platforms  # type: ignore[attr-defined]
        if not platforms:
            raise
        reason = str(error).partition("\n")[0] or "no message"
        raise errors.lack(error) or DeviceError(
            f"JAX_PLATFORMS={platforms}: no such device here ({reason}). Unset it, or "
            "install jax[cuda13] or jax[tpu] on a machine that has one"
        ) from error


def make_mesh(
    data: int = -1, model: int = 1, *, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Arranges devices as `data` x `model`.

    Args:
      data: devices that split the batch; -1 takes all that `model` leaves.
      model: devices that split the classes of a head, and the batch further; 0 takes
        all that `data` leaves, or 16 on a TPU slice of more chips that 16 divides, and
        1 elsewhere.
      devices: all of them by default.

    Raises:
      MeshError: the two sizes do not multiply to the number of devices.
    """
    used = jax.devices() if devices is None else list(devices)
    count = len(used)
    if model == 0:
        beside_data = max(count // max(data, 1), 1)
        model = (_GROUP if _has_groups(used) else 1) if data == -1 else beside_data
    if model < 1 or count % model or (data < 1 and data != -1):
        divisors = [n for n in range(1, count + 1) if count % n == 0]
        raise MeshError(
            f"mesh.data={data}, mesh.model={model}: mesh.model must be one of "
            f"{divisors} for {count} devices, and mesh.data positive or -1"
        )
    data = count // model if data == -1 else data
    if data * model != count:
        raise MeshError(
            f"mesh.data={data} times mesh.model={model} is {data * model}, but there "
            f"are {count} devices. Set mesh.data={count // model} or mesh.data=-1"
        )
    # In order of processes, so that the rows a process feeds lie together:
    # `jax.make_mesh` reorders TPU devices by their place in the torus.
    ordered = sorted(used, key=lambda device: (device.process_index, device.id))
    return Mesh(
        np.array(ordered).reshape(data, model),
        ("data", "model"),
        axis_types=(AxisType.Auto, AxisType.Auto),
    )


def _has_groups(used: Sequence[Any]) -> bool:
    """Returns True for a TPU slice of more than 16 chips that 16 divides.

    A described v4 chip is two devices.
    """
    chips = {
        (getattr(device, "slice_index", 0), *device.coords)
        for device in used
        if device.platform == "tpu"
    }
    return len(chips) > _GROUP and not len(chips) % _GROUP


@contextlib.contextmanager
def describing() -> Iterator[None]:
    """Within it, functions here describe arrays, and neither make nor compute any."""
    token = _DESCRIBES.set(True)
    try:
        yield
    finally:
        _DESCRIBES.reset(token)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def row_sharding(mesh: Mesh, axes: Any = ROWS) -> NamedSharding:
    """Returns the sharding of a split leading axis, by default over every device."""
    return NamedSharding(mesh, PartitionSpec(axes))


def fsdp_axis(mesh: Mesh, axis: str) -> str:
    """Returns the axis that parameters split over.

    'auto' is 'model' for groups of 16 on a large TPU slice, and 'none' elsewhere:
    smaller groups double the estimate of a step on v5e:2x4.
    """
    if axis != "auto":
        return axis
    grouped = mesh.shape["model"] == _GROUP and _has_groups(
        mesh.devices.ravel().tolist()
    )
    return "model" if grouped else "none"


def describe(mesh: Mesh, fsdp: str) -> str:
    """Returns the layout of a run in words, for its log."""
    platform, axis = mesh.devices.flat[0].platform, fsdp_axis(mesh, fsdp)
    if mesh.size == 1:
        return f"1 {platform}"
    shape = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    split = axis != "none" and mesh.shape[axis] > 1
    parameters = f"split over {axis}" if split else "whole on each"
    return f"{mesh.size} {platform} ({shape}), parameters {parameters}"


def shard_largest_axis(
    mesh: Mesh,
    tree: Any,
    *,
    axis: str = "data",
    min_elements: int = MIN_SHARDED_ELEMENTS,
) -> Any:
    """Returns shardings that spread parameters or moments over an axis (FSDP).

    Each leaf splits its largest axis that the mesh divides (the first of equals).
    Leaves under `min_elements`, or without such an axis, stay replicated.

    Args:
      mesh: of all devices.
      tree: arrays or `ShapeDtypeStruct`s.
      axis: see :func:`fsdp_axis`; 'none' replicates everything.
      min_elements: smallest leaf worth splitting.
    """
    axis = fsdp_axis(mesh, axis)
    size = 1 if axis == "none" else mesh.shape[axis]

    def rule(leaf: Any) -> NamedSharding:
        fitting = [i for i, n in enumerate(leaf.shape) if n % size == 0]
        if size == 1 or not fitting or leaf.size < min_elements:
            return replicated(mesh)
        largest = max(fitting, key=lambda i: leaf.shape[i])
        return NamedSharding(mesh, PartitionSpec(*[None] * largest, axis))

    return jax.tree.map(rule, tree)


def place(tree: Any, shardings: Any) -> Any:
    """Puts host arrays on the mesh; each device receives only its own part.

    Args:
      tree: numpy arrays, whole and equal in every process.
      shardings: one sharding for all leaves, or a tree of them.
    """

    def put(leaf: Any, sharding: NamedSharding) -> Any:
        array = np.asarray(leaf)
        return _make(array.shape, array.dtype, sharding, array.__getitem__)

    if isinstance(shardings, NamedSharding):
        return jax.tree.map(lambda leaf: put(leaf, shardings), tree)
    return jax.tree.map(put, tree, shardings)


def compute(function: Callable[..., Any], *args: Any, shardings: Any) -> Any:
    """Returns the compiled `function(*args)` of arrays on the mesh.

    Args:
      function: pure.
      *args: from the other functions here.
      shardings: one sharding for all leaves of the result, or a tree of them.
    """
    if not _DESCRIBES.get():
        return jax.jit(function, out_shardings=shardings)(*args)
    shapes = jax.eval_shape(function, *args)
    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda leaf: shardings, shapes)
    return jax.tree.map(
        lambda leaf, own: _describe(leaf.shape, leaf.dtype, own), shapes, shardings
    )


def _make(
    shape: tuple[int, ...],
    dtype: Any,
    sharding: NamedSharding,
    part: Callable[[Any], np.ndarray],
) -> Any:
    if _DESCRIBES.get():
        return _describe(shape, dtype, sharding)
    return jax.make_array_from_callback(shape, sharding, part)


def _describe(
    shape: tuple[int, ...], dtype: Any, sharding: NamedSharding
) -> jax.ShapeDtypeStruct:
    # As JAX has it on devices: 64 bits become 32.
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def shard_rows(
    mesh: Mesh,
    array: np.ndarray,
    axes: Any = ROWS,
    *,
    rows: int = 0,
    fill: float = 0,
) -> Any:
    """Splits the leading axis of a host array over the mesh.

    Args:
      mesh: of all devices.
      array: whole and equal in every process. If it is mapped into memory, each
        process reads its own part.
      axes: of the mesh, one or several.
      rows: least number of rows of the result.
      fill: value of added rows.

    Returns:
      The global array, with rows added at its end until the axes divide it.
    """
    axes = (axes,) if isinstance(axes, str) else axes
    shards = math.prod(mesh.shape[axis] for axis in axes)
    rows = -(-max(rows, len(array)) // shards) * shards

    def part(index: Any) -> np.ndarray:
        start, stop, _ = index[0].indices(rows)
        block = np.asarray(array[start:stop])
        added = (stop - start - len(block), *array.shape[1:])
        return np.concatenate([block, np.full(added, fill, array.dtype)])

    shape = (rows, *array.shape[1:])
    return _make(shape, array.dtype, row_sharding(mesh, axes), part)


def described_rows(
    mesh: Mesh, shape: tuple[int, ...], dtype: Any
) -> jax.ShapeDtypeStruct:
    """Returns a described global array of rows, split over all devices."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=row_sharding(mesh))


def split_rows(mesh: Mesh, tree: Any, axes: Any = ROWS, *, axis: int = 0) -> Any:
    """Splits `axis` of arrays over the mesh's `axes`, inside a step."""
    sharding = NamedSharding(mesh, PartitionSpec(*[None] * axis, axes))
    return jax.tree.map(
        lambda leaf: jax.lax.with_sharding_constraint(leaf, sharding), tree
    )


def take_rows(
    mesh: Mesh, table: Shaped[Array, "S *rest"], rows: Int[Array, " B"]
) -> Shaped[Array, "B *rest"]:
    """Returns rows of a table that :func:`shard_rows` has split over all devices.

    Each device looks up its own rows of the whole batch; the sum over devices is
    scattered. So no device ever holds the table or more than B rows.

    Args:
      mesh: of all devices.
      table: S is a multiple of the number of devices.
      rows: indices into the table, split over all devices.
    """

    def local(table: Array, rows: Array) -> Array:
        rows = jax.lax.all_gather(rows, ROWS, tiled=True)
        rows = rows - len(table) * jax.lax.axis_index(ROWS)
        # Rows of other devices are out of bounds here, below and above.
        rows = jnp.where(rows < 0, len(table), rows)
        own = table.at[rows].get(mode="fill", fill_value=0)
        return jax.lax.psum_scatter(own, ROWS, scatter_dimension=0, tiled=True)

    spec = PartitionSpec(ROWS)
    return jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec)(table, rows)


def to_global(mesh: Mesh, host_batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Joins the rows of all processes into global arrays, split over all devices.

    Args:
      mesh: of all devices.
      host_batch: this process's rows of each array, `[b, ...]`; b is the same in every
        process.

    Raises:
      MeshError: the global batch does not divide over the devices.
    """
    sharding = row_sharding(mesh)
    processes = len({device.process_index for device in mesh.devices.flat})
    for name, rows in host_batch.items():
        total = len(rows) * processes
        if total % mesh.size:
            raise MeshError(
                f"the batch's {name!r} has {total} rows over all processes, which the "
                f"{mesh.size} devices do not divide. Choose a multiple of them"
            )
    return {
        name: jax.make_array_from_process_local_data(sharding, np.asarray(rows))
        for name, rows in host_batch.items()
    }


def prefetch(
    mesh: Mesh, host_batches: Iterator[Mapping[str, np.ndarray]], size: int = 2
) -> Generator[dict[str, jax.Array], None, None]:
    """Yields global arrays of each batch, put on the devices ahead of their use.

    Args:
      mesh: of all devices.
      host_batches: see :func:`to_global`; a thread of its own reads them.
      size: batches in flight beyond the one in use.
    """

    def pull() -> dict[str, jax.Array] | None:
        batch = next(host_batches, None)
        return None if batch is None else to_global(mesh, batch)

    with futures.ThreadPoolExecutor(1, "prefetch") as thread:
        coming = collections.deque(thread.submit(pull) for _ in range(size))
        try:
            while (batch := coming.popleft().result()) is not None:
                coming.append(thread.submit(pull))
                yield batch
        finally:
            thread.shutdown(cancel_futures=True)


def to_host(tree: Any) -> Any:
    """Returns a tree of global arrays as whole numpy arrays; all processes call it."""

    def fetch(leaf: Any) -> np.ndarray:
        if not isinstance(leaf, jax.Array):
            return np.asarray(leaf)
        if leaf.is_fully_addressable or leaf.is_fully_replicated:
            return np.asarray(jax.device_get(leaf))
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))

    return jax.tree.map(fetch, tree)


def in_every_process(fact: bool) -> bool:
    """Returns True if a fact holds in all processes, which all call this."""
    if jax.process_count() == 1:
        return fact
    return bool(np.all(multihost_utils.process_allgather(np.asarray(fact))))
