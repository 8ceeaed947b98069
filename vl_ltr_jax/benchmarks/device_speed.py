"""Pre-training on the devices that are here: rates, memory, and the loader's rate."""

import dataclasses
import io
import itertools
import math
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any, NamedTuple

import jax

from vl_ltr_jax.benchmarks import data
from vl_ltr_jax.benchmarks.device_parity import Row
from vl_ltr_jax.config import settings
from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.data.sources.dataset import Split
from vl_ltr_jax.models.clip import PRESETS, Clip
from vl_ltr_jax.preflight import inputs, topology
from vl_ltr_jax.preflight.inputs import PlannedRun
from vl_ltr_jax.preflight.topology import GIB
from vl_ltr_jax.run.depends import settled
from vl_ltr_jax.run.inputs import RunInputs
from vl_ltr_jax.run.run import random_towers
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.stages.pretrain import pretraining
from vl_ltr_jax.train import flops, memory
from vl_ltr_jax.train import stage as training

_PLACES_LT = inputs.Counts(classes=365, train=62_500, sentences=50_000)
_FIRST, _MOST = 32, 2048  # images of a device in the first program, and in any
_AHEAD = 3  # batches that a loader has made, or begun, when the first is taken


class Step(NamedTuple):
    """A compiled step of pre-training.

    Attributes:
      job: the training that it belongs to.
      program: from frozen arrays, state and batch to the next state and metrics.
      operations: of all devices.
      text_shape: of the batches that it takes; a few have another.
    """

    job: training.Job
    program: Any
    operations: float
    text_shape: tuple[int, ...]


def rows(backbone: str, *, small: bool) -> Iterator[Row]:
    """Yields figures of the largest batch that fits the devices, a power of two."""
    devices = topology.read("local")
    changes = {
        "model.backbone": backbone,
        "model.image_size": PRESETS[backbone].vision.image_size,
        "mesh.accumulation_steps": 1,
    }
    config = settings.changed(Config(), changes)
    config = settled(config, None, devices.devices[0].platform)
    mesh = meshes.make_mesh(model=config.mesh.model, devices=devices.devices)
    planned = _with_pixels(inputs.read(config, _PLACES_LT)[0])

    def compiled(each: int) -> Step:
        size = {"pretrain.global_batch_size": each * mesh.size}
        return _compiled(PlannedRun(settings.changed(config, size), planned, mesh))

    each, room = 8, devices.memory_bytes
    if not small:
        first = compiled(_FIRST).program
        fixed = first.memory_analysis().argument_size_in_bytes
        # Temporary arrays grow with the batch; state and frozen arrays do not.
        growth = (room - fixed) / (memory.peak(first) - fixed)
        each = min(_FIRST * 2 ** int(math.log2(max(growth, 1))), _MOST)
    while each:
        title, peak = f"{backbone}, batch {each * mesh.size}", math.inf
        try:
            step = compiled(each)
            peak = memory.peak(step.program)
            if memory.fits(peak, room):
                dtype = config.model.compute_dtype
                yield from _measured(step, mesh, dtype, title, small=small)
                return
        except jax.errors.JaxRuntimeError as error:  # a compiler may refuse, too
            fault = str(error).partition("\n")[0]
            ok = False if memory.fits(peak, room) else None
            yield Row(title, fault, f"preflight: {peak / GIB:.2f} GiB", ok)
        each //= 2


def _with_pixels(planned: RunInputs) -> RunInputs:
    """Returns inputs with photographs to decode, and with random towers."""
    files = [io.BytesIO() for _ in range(16)]
    for seed, file in enumerate(files):
        data.photograph(seed).save(file, "JPEG", quality=92)

    def content(index: int) -> bytes:
        return files[index % len(files)].getvalue()

    train = Split(planned.data.train.labels, content, str)
    return dataclasses.replace(
        planned,
        data=dataclasses.replace(planned.data, train=train),
        clip=random_towers(Clip(planned.clip_config), 0),
    )


def _compiled(run: PlannedRun) -> Step:
    job = pretraining(run)
    with meshes.describing():
        state, shardings = training.first_state(
            job.variables, job.optimizer, run.mesh, run.config.mesh.fsdp
        )
        shapes = job.batch_shapes()[0]
        counted = job.compiled(job.frozen(), shardings, run.mesh, run.config)
        compiled = counted.compile(state, shapes)
    return Step(job, compiled.program, compiled.flops, shapes["tokens"].shape)


def _measured(
    step: Step, mesh: jax.sharding.Mesh, dtype: str, title: str, *, small: bool
) -> Iterator[Row]:
    """Yields the figures of a step, on a batch that lies on the devices, then fed."""
    job, size = step.job, step.job.plan.global_batch_size
    num_steps, num_fed = (2, 2) if small else (50, 8)

    def usual(batches: Iterator[Any]) -> Iterator[Any]:
        return (b for b in batches if b["tokens"].shape == step.text_shape)

    with closing(job.batches(0)) as batches:
        for _ in range(_AHEAD):
            next(batches)
        started = time.perf_counter()
        for _ in range(num_fed):
            next(batches)
        loaded = num_fed * size / (time.perf_counter() - started)
        batch = meshes.to_global(mesh, next(usual(batches)))
    frozen = job.frozen()
    state, _ = training.first_state(job.variables, job.optimizer, mesh, "none")

    def train(batches: Iterator[Any], count: int) -> tuple[float, float]:
        """Returns images a second and the last loss."""
        nonlocal state
        started = time.perf_counter()
        for batch in itertools.islice(batches, count):
            state, metrics = step.program(frozen, state, batch)
        loss = float(metrics["loss/total"])
        return count * size / (time.perf_counter() - started), loss

    train(itertools.repeat(batch), 2)
    rate, loss = train(itertools.repeat(batch), num_steps)
    figure = f"{rate:,.0f} images/s, loss {loss:.3f}"
    values: dict[str, float | None] = {"images_per_second": rate}
    finite = math.isfinite(loss)
    yield Row(f"{title}, {num_steps} steps", figure, "a finite loss", finite, values)

    device = mesh.devices.flat[0]
    reached = step.operations * rate / size / mesh.size
    peak = flops.peak(device.device_kind, dtype)
    share = reached / peak if peak else None
    figure = f"{reached / 1e12:.2f} TFLOP/s" + (f", MFU {share:.1%}" if share else "")
    limit = f"peak {peak / 1e12:.0f} TFLOP/s" if peak else "the peak is unknown"
    values = {"flops_per_second": reached, "model_flops_utilization": share}
    yield Row(f"{title}, a device in {dtype}", figure, limit, None, values)

    used = (device.memory_stats() or {}).get("peak_bytes_in_use")
    figure = f"{used / GIB:.2f} GiB" if used else "the device does not say"
    planned = memory.peak(step.program)
    values = {"peak_bytes": used, "preflight_bytes": planned}
    limit = f"preflight: {planned / GIB:.2f} GiB"
    yield Row(f"{title}, memory at the peak", figure, limit, None, values)

    with (
        closing(job.batches(0)) as batches,
        closing(meshes.prefetch(mesh, batches)) as placed,
    ):
        train(usual(placed), _AHEAD)
        fed, _ = train(usual(placed), num_fed)
    values = {"loader": loaded, "step": rate, "fed_step": fed}
    figure = f"loader {loaded:,.0f}, step {rate:,.0f}, step fed by it {fed:,.0f}"
    limit = f"the {'loader' if loaded < rate else 'step'} is slower"
    yield Row(f"{title}, images/s", figure, limit, None, values)
