"""Two programs that do the same work, run in turn in one process.

Times are compared round by round, so that a machine whose speed drifts slows both.
Needs Linux, for the peak of resident memory.
"""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

_MATRIX = 4096
_COPIED_BYTES = 2**28


class Ceilings(NamedTuple):
    """What this machine reaches at best, by either library.

    Attributes:
      operations_per_second: of a float32 product of two square matrices.
      bytes_per_second: read and written by a copy.
    """

    operations_per_second: float
    bytes_per_second: float


class Cost(NamedTuple):
    """One program's time and memory.

    Attributes:
      seconds: of each round.
      peak_bytes: resident memory it added while it ran.
    """

    seconds: list[float]
    peak_bytes: int


def ceilings(rounds: int = 5) -> Ceilings:
    """Measures this machine's matrix products and memory."""
    matrix = np.ones((_MATRIX, _MATRIX), np.float32)
    device, tensor = jnp.asarray(matrix), torch.from_numpy(matrix)
    multiply = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))
    source = np.ones(_COPIED_BYTES, np.uint8)
    target = np.empty_like(source)

    def best(function: Callable[[], object]) -> float:
        function()
        return min(_timed(function) for _ in range(rounds))

    product = min(best(lambda: multiply(device)), best(lambda: tensor @ tensor))
    copy = best(lambda: np.copyto(target, source))
    return Ceilings(2 * _MATRIX**3 / product, 2 * _COPIED_BYTES / copy)


def run(programs: dict[str, Callable[[], object]], rounds: int) -> dict[str, Cost]:
    """Runs each program once to warm up and measure memory, then all of them in turn.

    Args:
      programs: functions by name; results that are JAX arrays are waited for.
      rounds: how often each is timed.
    """
    peaks, seconds = {}, {name: list[float]() for name in programs}
    for name, program in programs.items():
        jax.block_until_ready(program())
        peaks[name] = _peak_bytes(program)
    for _ in range(rounds):
        for name, program in programs.items():
            seconds[name].append(_timed(program))
    return {name: Cost(seconds[name], peaks[name]) for name in programs}


def table(
    title: str,
    costs: dict[str, Cost],
    machine: Ceilings,
    operations: dict[str, float],
) -> str:
    """The first program beside the others, as text.

    Args:
      title: of the table.
      costs: from :func:`run`; the first is ours.
      machine: from :func:`ceilings`.
      operations: floating-point operations of each program.
    """
    first, *others = costs
    lines = [
        f"{title}; ceilings {machine.operations_per_second / 1e9:.0f} GFLOP/s, "
        f"{machine.bytes_per_second / 1e9:.1f} GB/s",
        f"{'':24} {'median s':>9} {'best s':>9} {'GFLOP':>9} {'of ceiling':>10} "
        f"{'peak MiB':>9}",
    ]
    for name, cost in costs.items():
        share = operations[name] / min(cost.seconds) / machine.operations_per_second
        lines.append(
            f"{name:24} {statistics.median(cost.seconds):9.3f} "
            f"{min(cost.seconds):9.3f} {operations[name] / 1e9:9.1f} {share:10.0%} "
            f"{cost.peak_bytes / 2**20:9.0f}"
        )
    for name in others:
        ratios = [
            theirs / ours
            for ours, theirs in zip(
                costs[first].seconds, costs[name].seconds, strict=True
            )
        ]
        lines.append(
            f"{first} is {statistics.median(ratios):.1f} times as fast as {name} "
            f"(rounds: {min(ratios):.1f} to {max(ratios):.1f})"
        )
    return "\n".join(lines)


def _timed(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def _peak_bytes(function: Callable[[], object]) -> int:
    """Resident memory that a call adds at its peak."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # the peak starts again at what is resident now
    before = _status("VmRSS")
    jax.block_until_ready(function())
    return max(_status("VmHWM") - before, 0)


def _status(name: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
