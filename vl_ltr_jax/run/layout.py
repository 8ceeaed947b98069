"""Chunks of a training step, chosen by what fits the devices of a run.

With `mesh.accumulation_steps=0` a stage takes the smallest number of chunks whose
compiled step fits. The number stays with the stage, whatever devices resume it. A
device that does not tell its memory, such as a CPU, takes the whole batch.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from vl_ltr_jax.logs import console
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.runtime.errors import UserError
from vl_ltr_jax.storage import strict_json
from vl_ltr_jax.storage.artifact import write_whole
from vl_ltr_jax.train import memory
from vl_ltr_jax.train import stage as training

MAX_CHUNKS = 64
_FILE = "layout.json"
_KEY = "accumulation_steps"


class LayoutError(UserError):
    """A training step that no number of chunks fits into the devices."""


def chunk_counts(batch_size: int, num_devices: int) -> Iterator[int]:
    """Yields the numbers of chunks that a global batch divides into on all devices."""
    share, remainder = divmod(batch_size, num_devices)
    if not remainder:
        yield from (n for n in range(1, MAX_CHUNKS + 1) if share % n == 0)


def recorded(directory: epath.Path) -> int:
    """Returns the number of chunks that a stage has begun with; 0 for none.

    Raises:
      LayoutError: the record is damaged.
    """
    path = directory / _FILE
    if not path.exists():
        return 0
    try:
        chunks = strict_json.parse(path.read_bytes())[_KEY]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LayoutError(f"{path}: unreadable ({error}). Delete it.") from error
    if type(chunks) is not int or chunks < 1:
        raise LayoutError(f"{path}: {_KEY}={chunks!r} is no number. Delete it.")
    return chunks


def record(directory: epath.Path, chunks: int) -> None:
    """Writes the number of chunks of a stage; all processes call this."""
    if jax.process_index() == 0:
        write_whole(directory / _FILE, json.dumps({_KEY: chunks}))
    multihost_utils.sync_global_devices("layout is written")


def choose(build: Callable[[int], training.Job], run: Run) -> training.Job:
    """Returns a stage with the fewest chunks that fit; all processes call this.

    The number is recorded, and stays with the stage.

    Args:
      build: from a number of chunks to the stage's training.
      run: has the devices.

    Raises:
      LayoutError: no number of chunks fits, or the recorded one does not.
    """
    job = build(1)
    chunks, limit = _agreed(job.directory, run)
    batch_size = job.plan.global_batch_size
    if chunks:
        if batch_size % (chunks * run.mesh.size):
            raise LayoutError(
                f"{job.directory / _FILE}: a batch of {batch_size} does not divide "
                f"into {chunks} chunks on {run.mesh.size} devices. Set "
                "mesh.accumulation_steps to a number that does."
            )
        return job if chunks == 1 else build(chunks)
    if not limit:
        record(job.directory, 1)
        return job
    # The arrays exist for a moment only: training places its own.
    frozen = jax.tree.map(_described, job.frozen())
    for chunks in chunk_counts(batch_size, run.mesh.size):
        job = job if chunks == 1 else build(chunks)
        peak = _peak(job, frozen, run)
        fits = np.asarray(memory.fits(peak, limit))
        if multihost_utils.broadcast_one_to_all(fits):
            console.say(
                f"mesh.accumulation_steps={chunks}: a step takes {peak / 2**30:.1f} "
                f"of {limit / 2**30:.1f} GiB",
                stage=job.directory.name,
            )
            record(job.directory, chunks)
            return job
    raise LayoutError(
        f"mesh.accumulation_steps=0: no number of chunks makes the step of "
        f"{job.directory.name!r} fit into {limit / 2**30:.1f} GiB. Set "
        "mesh.fsdp='data', model.remat='full' or a smaller global_batch_size."
    )


def _agreed(directory: epath.Path, run: Run) -> tuple[int, int]:
    """Returns recorded chunks and a device's memory, as the first process has them.

    File systems may show the others an older state.
    """
    chunks, fault = 0, None
    if jax.process_index() == 0:
        try:
            chunks = recorded(directory)
        except LayoutError as error:
            chunks, fault = -1, error
    # In MiB: 64 bits become 32 on the way.
    limit = memory.limit(run.mesh.local_devices[0]) // 2**20
    facts = multihost_utils.broadcast_one_to_all(np.array([chunks, limit], np.int32))
    chunks, limit = map(int, facts)
    if chunks < 0:
        raise fault or LayoutError(f"{directory / _FILE}: damaged. Delete it.")
    return chunks, limit * 2**20


def _described(array: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)


def _peak(job: training.Job, frozen: Any, run: Run) -> float:
    """Returns the memory of the largest step, infinite if the compiler refuses."""
    with meshes.describing():
        state, shardings = training.first_state(
            job.variables, job.optimizer, run.mesh, run.config.mesh.fsdp
        )
    step = job.compiled(frozen, shardings, run.mesh, run.config)
    try:
        program = step.compile(state, job.batch_shapes()[-1]).program
    except jax.errors.JaxRuntimeError as error:
        if not memory.is_lack(error):
            raise
        return float("inf")
    return memory.peak(program)
