"""Figures of a compiled program, for one device, and whether it fits."""

import time
from typing import Any, NamedTuple

import jax

from vl_ltr_jax.preflight import hlo
from vl_ltr_jax.preflight.programs import Program
from vl_ltr_jax.preflight.topology import Topology
from vl_ltr_jax.train import flops, memory

# The compiler estimates no kernel. Products filled up to this size come within 7 % of
# the instructions that libtpu writes out for the attention of ViT-B/16 on a v5e.
_UNIT = 128
_COMPILER = jax.errors.JaxRuntimeError


class Figures(NamedTuple):
    """Figures of one device; None where the compiler does not say.

    Attributes:
      argument_bytes: state, frozen arrays and the batch.
      temporary_bytes: beside them, at the peak.
      peak_bytes: of all.
      fits: True if that is within the device's memory.
      flops: operations; a loop counts with all its passes.
      bytes_accessed: read and written; a loop counts once.
      estimated_seconds: cycles by the TPU compiler, at the chip's clock, and the
        products of kernels. Nothing is measured; collectives are not in it.
      waiting_seconds: of a TPU for collectives that no other work runs beside, sent
        at the published rate of its links: the least they can take.
      utilisation: operations in that time, as a share of the published peak.
      collectives: name to the fields of `hlo.Collective`.
      compile_seconds: on this machine.
      error: of the compiler; empty if it compiled.
    """

    argument_bytes: int | None = None
    temporary_bytes: int | None = None
    peak_bytes: int | None = None
    fits: bool = False
    flops: float | None = None
    bytes_accessed: float | None = None
    estimated_seconds: float | None = None
    waiting_seconds: float | None = None
    utilisation: float | None = None
    collectives: dict[str, dict[str, float]] | None = None
    compile_seconds: float = 0.0
    error: str = ""


def measure(program: Program, topology: Topology) -> Figures:
    """Compiles a program and returns its figures.

    A compiler that finds no room in a device, or fails, is a figure too.
    """
    started = time.monotonic()
    try:
        counted = program.compile()
    except Exception as error:
        # Mosaic, the compiler of kernels, wraps JAX's error in one of its own.
        if not any(isinstance(e, _COMPILER) for e in (error, error.__context__)):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        words = lines[0] if lines else type(error).__name__
        return Figures(error=words, compile_seconds=time.monotonic() - started)
    compiled = counted.program
    analysed, peak = compiled.memory_analysis(), memory.peak(compiled)
    text = compiled.as_text()
    own = counted.flops / len(topology.devices)
    sent = hlo.collectives(text)
    seconds = waiting = share = None
    if tpu := topology.tpu:
        work = float(hlo.cycles(text) * tpu.flops_per_cycle)
        work += flops.kernel_products(counted.traced, _UNIT)
        seconds = work / tpu.peak
        share = own / work if work else None
        alone = sum(each.wire_bytes - each.async_bytes for each in sent.values())
        waiting = alone / tpu.interconnect
    costs: Any = compiled.cost_analysis() or {}
    return Figures(
        analysed.argument_size_in_bytes,
        analysed.temp_size_in_bytes,
        peak,
        memory.fits(peak, topology.memory_bytes),
        own,
        costs.get("bytes accessed"),
        seconds,
        waiting,
        share,
        {name: count._asdict() for name, count in sent.items()},
        time.monotonic() - started,
    )


def lacks_memory(figures: Figures) -> bool:
    """Returns True if a program was refused, or would be, for want of memory."""
    error = RuntimeError(figures.error)
    return not figures.fits and (not figures.error or memory.is_lack(error))
