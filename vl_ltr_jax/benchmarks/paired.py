"""Timing of programs that do the same work, in one process or each in its own.

Times are compared round by round, so that a machine whose speed drifts slows all.
Needs Linux, for the peak of resident memory.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vl_ltr_jax.runtime import cpu_memory
from vl_ltr_jax.runtime.errors import UserError

STEP = "whole step"  # the program whose parts the other programs are
_MATRIX = 4096
_COPIED_BYTES = 2**28


class SideError(UserError):
    """A side of a comparison that could not go on."""


class Ceilings(NamedTuple):
    """Highest rates of this machine, by either library.

    Attributes:
      operations_per_second: of a float32 product of two square matrices.
      bytes_per_second: read and written by a copy, on all threads.
    """

    operations_per_second: float
    bytes_per_second: float


class Work(NamedTuple):
    """Work of a program in a round; 0 if unknown.

    Attributes:
      operations: floating-point operations.
      bytes: read and written, each intermediate array included.
    """

    operations: float = 0.0
    bytes: float = 0.0


class Cost(NamedTuple):
    """One program's time and memory.

    Attributes:
      seconds: of each round.
      peak_bytes: resident memory it added while it ran; of a program with a process of
        its own, all that the process had.
    """

    seconds: list[float]
    peak_bytes: int


def ceilings(rounds: int = 5) -> Ceilings:
    """Measures this machine's matrix products and memory."""
    import torch

    matrix = np.ones((_MATRIX, _MATRIX), np.float32)
    device, tensor = jnp.asarray(matrix), torch.from_numpy(matrix)
    multiply = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))
    source = torch.ones(_COPIED_BYTES, dtype=torch.uint8)
    target = torch.empty_like(source)

    def best(function: Callable[[], object]) -> float:
        function()
        return min(_timed(function) for _ in range(rounds))

    product = min(best(lambda: multiply(device)), best(lambda: tensor @ tensor))
    copy = best(lambda: target.copy_(source))
    return Ceilings(2 * _MATRIX**3 / product, 2 * _COPIED_BYTES / copy)


def add_allocator(parser: argparse.ArgumentParser) -> None:
    """Adds the flag `--allocator`, which both sides share."""
    parser.add_argument(
        "--allocator",
        choices=("heap", "glibc"),
        default="heap",
        help="of both sides: one heap that stays, as in the main job, or glibc's own",
    )


def use_allocator(name: str) -> None:
    """Takes an allocator for this process, before JAX starts its threads."""
    if name == "heap":
        cpu_memory.keep()


def count(text: str) -> int:
    """A number of the command line that is at least 1.

    Raises:
      ArgumentTypeError: if it is not.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def compiled_work(compiled: Any) -> Work:
    """Returns XLA's count for a compiled program; the body of a loop counts once."""
    counted = compiled.cost_analysis()
    return Work(counted["flops"], counted["bytes accessed"])


def run(programs: dict[str, Callable[[], object]], rounds: int) -> dict[str, Cost]:
    """Runs each program twice to warm up and measure memory, then all of them in turn.

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


class Program(NamedTuple):
    """A program with a process of its own.

    Attributes:
      call: one round; gives a number, which both sides should agree on.
      counted: such a round, and its work.
    """

    call: Callable[[], Any]
    counted: Callable[[], tuple[Any, Work]]

    @classmethod
    def from_compiled(cls, call: Callable[[], Any], compiled: Any) -> "Program":
        """A call of a compiled JAX program."""
        return cls(call, lambda: (call(), compiled_work(compiled)))

    @classmethod
    def from_torch(cls, call: Callable[[], Any]) -> "Program":
        """A call of PyTorch; its matrix products and convolutions are counted."""
        from torch.utils.flop_counter import FlopCounterMode

        def count() -> tuple[Any, Work]:
            with FlopCounterMode(display=False) as counter:
                result = call()
            return result, Work(counter.get_total_flops())

        return cls(call, count)


Build = Callable[[], Program]


class Sides:
    """The sides of a comparison, each in a process of its own, which take turns.

    For programs that fill the memory: in one process each would take from the system
    what the other has just given back.
    """

    def __init__(self, arguments: Mapping[str, Sequence[str]]) -> None:
        """Starts the processes.

        Args:
          arguments: of `python`, by side, ours first; each calls :func:`serve`.
        """
        self._processes = {
            side: subprocess.Popen(
                [sys.executable, *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for side, words in arguments.items()
        }

    def __enter__(self) -> "Sides":
        return self

    def __exit__(self, *exception: object) -> None:
        """Ends the processes."""
        for process in self._processes.values():
            process.kill()
            process.communicate()

    def run(
        self, program: str, rounds: int
    ) -> tuple[dict[str, Cost], dict[str, Work], dict[str, list[float]]]:
        """Runs a program on all sides that have it, in turn, after two to warm up.

        Returns:
          Costs, work and what each round gave, the rounds to warm up included.

        Raises:
          SideError: if a process ends.
        """
        first = {side: self._ask(side, program) for side in self._processes}
        answers = {side: [answer] for side, answer in first.items() if answer}
        for _ in range(1 + rounds):
            for side, replies in answers.items():
                replies.append(self._ask(side, program))
        costs = {
            side: Cost([a["seconds"] for a in replies[2:]], replies[-1]["peak_bytes"])
            for side, replies in answers.items()
        }
        work = {side: Work(*replies[0]["work"]) for side, replies in answers.items()}
        results = {
            side: [answer["result"] for answer in replies]
            for side, replies in answers.items()
        }
        return costs, work, results

    def _ask(self, side: str, program: str) -> Any:
        process: Any = self._processes[side]
        line = ""
        try:
            process.stdin.write(program + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            return json.loads(line)
        except (OSError, ValueError):
            fault = f"answered {line!r}"
            if not line:  # it is ending, or has ended
                fault = f"ended with exit status {process.wait(timeout=60)}"
            raise SideError(
                f"{side}, asked for {program!r}, {fault}; an error of its own stands "
                "above, and -9 is the system's when memory is short"
            ) from None


def serve(builds: Mapping[str, Build]) -> None:
    """Answers :class:`Sides`: this process is one of them.

    Args:
      builds: a program by name is built when it is first asked for.
    """
    programs: dict[str, tuple[Program, Work]] = {}
    for line in sys.stdin:
        name, answer = line.strip(), {}
        if name in builds:
            _reset_peak()
            start = time.perf_counter()
            if name in programs:
                result = programs[name][0].call()
            else:
                program = builds[name]()
                result, work = program.counted()
                programs[name] = program, work
            answer = {
                "seconds": time.perf_counter() - start,
                "peak_bytes": _status("VmHWM"),
                "result": float(result),
                "work": programs[name][1],
            }
        print(json.dumps(answer), flush=True)


def table(
    title: str,
    costs: dict[str, Cost],
    machine: Ceilings,
    work: dict[str, Work],
) -> str:
    """Returns the costs as a table, the first program against each other.

    Args:
      title: of the table.
      costs: from :func:`run`; the first is ours.
      machine: from :func:`ceilings`.
      work: of each program.
    """
    first, *alternatives = costs
    lines = [
        f"{title}; ceilings {machine.operations_per_second / 1e9:.0f} GFLOP/s, "
        f"{machine.bytes_per_second / 1e9:.1f} GB/s",
        f"{'':24} {'median s':>9} {'best s':>9} {'GFLOP':>9} {'of ceiling':>10} "
        f"{'GB':>9} {'of ceiling':>10} {'peak MiB':>9}",
    ]
    for name, cost in costs.items():
        done, best = work[name], min(cost.seconds)
        shares = (
            done.operations / best / machine.operations_per_second,
            done.bytes / best / machine.bytes_per_second,
        )
        counts = (
            f"{count / 1e9:{width}.1f} {share:10.0%}"
            if count
            else f"{'-':>{width}} {'-':>10}"
            for count, share, width in zip(done, shares, (9, 8), strict=True)
        )
        lines.append(
            f"{name:24} {statistics.median(cost.seconds):9.3f} {best:9.3f} "
            f"{' '.join(counts)} {cost.peak_bytes / 2**20:9.0f}"
        )
    for name in alternatives:
        ratios = [
            theirs / ours
            for ours, theirs in zip(
                costs[first].seconds, costs[name].seconds, strict=True
            )
        ]
        lines.append(
            f"{first} is {statistics.median(ratios):.2f} times as fast as {name} "
            f"(rounds: {min(ratios):.2f} to {max(ratios):.2f})"
        )
    return "\n".join(lines)


def _timed(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def _peak_bytes(function: Callable[[], object]) -> int:
    """Resident memory that a call adds at its peak."""
    _reset_peak()
    before = _status("VmRSS")
    jax.block_until_ready(function())
    return max(_status("VmHWM") - before, 0)


def _reset_peak() -> None:
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # the peak starts again at what is resident now


def _status(name: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
