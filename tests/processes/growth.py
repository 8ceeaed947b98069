"""What a process holds, sample by sample, and whether it holds ever more.

Memory is judged by the slope of a line through samples taken at rest: between two steps
of training, once the C library has given back what lies unused. At other moments it
says little: a step's arrays come and go, and protobuf, in which metrics are written,
has all that lies unused given back after every 10,000 blocks that it frees. Files,
threads and children are judged by the fewest early and late, but for a tenth of the
samples, since a save or an evaluation has some of its own for a moment.
"""

import ctypes
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from vl_ltr_jax.runtime.errors import UserError

MAX_MB_PER_MINUTE = 1.0
LEAST_SAMPLES = 4
_COMPILATION = "/jax/core/compile/backend_compile_duration"
_TRACE = "/jax/core/compile/jaxpr_trace_duration"
_MB = 1e6


class GrowthError(UserError):
    """Too few samples to say whether anything grows."""


class Sample(NamedTuple):
    """A process and its children at one moment; memory in millions of bytes.

    Attributes:
      seconds: since the meter was started.
      steps: of training, that had a batch.
      evaluations: made.
      at_rest: 1 for a sample taken at rest, else 0.
      resident_mb: physical memory of the process, the sum of the two that follow.
      anonymous_mb: that belongs to no file.
      file_mb: that maps one, shared memory included.
      heap_mb: that the C library has handed out and not got back; 0 where it does not
        tell.
      children_mb: physical memory of its children; what they share counts in each.
      children: processes it has started.
      open_files: file descriptors.
      threads: the operating system's.
      compilations: of programs, so far.
      traces: of functions, so far.
      live_arrays: of JAX.
      live_mb: their bytes.
      python_blocks: of memory that Python's objects take.
    """

    seconds: float
    steps: int
    evaluations: int
    at_rest: int
    resident_mb: float
    anonymous_mb: float
    file_mb: float
    heap_mb: float
    children_mb: float
    children: int
    open_files: int
    threads: int
    compilations: int
    traces: int
    live_arrays: int
    live_mb: float
    python_blocks: int


class Slope(NamedTuple):
    """A straight line through samples: its rise a minute, and the error of that."""

    per_minute: float
    standard_error: float


class Finding(NamedTuple):
    """One thing that was asked, what was found, and whether that is well."""

    told: str
    met: bool


class Meter:
    """A thread that takes a sample every so often; a context manager.

    Attributes:
      samples: taken so far.
      steps: to be kept up to date from outside, as `evaluations` is.
    """

    def __init__(self, every_seconds: float, path: Path | None = None) -> None:
        """Starts nothing yet.

        Args:
          every_seconds: between samples.
          path: of a CSV file that gets a row for each, at once.
        """
        self._path = path
        self.samples: list[Sample] = []
        self.steps = self.evaluations = 0
        self._every_seconds, self._counts = every_seconds, {_COMPILATION: 0, _TRACE: 0}
        self._ended, self._start = threading.Event(), time.monotonic()
        self._thread = threading.Thread(target=self._watch, name="meter", daemon=True)

    def __enter__(self) -> "Meter":
        jax.monitoring.register_event_duration_secs_listener(self._count)
        self._start = time.monotonic()
        if self._path is not None:
            self._path.write_text(",".join(Sample._fields) + "\n")
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        jax.monitoring.unregister_event_duration_listener(self._count)

    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._start

    def rest(self) -> Sample:
        """Takes a sample now, at rest: to be called where nothing is being made."""
        if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
            trim(0)
        sample = self.take(at_rest=1)
        self._keep(sample)
        return sample

    def take(self, at_rest: int = 0) -> Sample:
        """A sample of this moment."""
        memory = _memory(Path("/proc/self/smaps_rollup"))
        resident, anonymous = memory["Rss"], memory["Anonymous"]
        children = _children()
        arrays = jax.live_arrays()
        return Sample(
            self.seconds(),
            self.steps,
            self.evaluations,
            at_rest,
            resident,
            anonymous,
            resident - anonymous,
            _heap() / _MB,
            sum(children),
            len(children),
            len(os.listdir("/proc/self/fd")) - 1,  # less the one that lists them
            len(os.listdir("/proc/self/task")),
            self._counts[_COMPILATION],
            self._counts[_TRACE],
            len(arrays),
            sum(array.nbytes for array in arrays) / _MB,
            # Not gc.get_objects, which breaks tuples that another thread is making.
            sys.getallocatedblocks(),
        )

    def _watch(self) -> None:
        while not self._ended.wait(self._every_seconds):
            self._keep(self.take())

    def _keep(self, sample: Sample) -> None:
        self.samples.append(sample)
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(",".join(f"{value:.10g}" for value in sample) + "\n")

    def _count(self, event: str, duration_secs: float, **more: Any) -> None:
        del duration_secs, more
        if event in self._counts:
            self._counts[event] += 1


def slope(seconds: Float[np.ndarray, " T"], values: Float[np.ndarray, " T"]) -> Slope:
    """The least-squares line through three or more samples.

    Its error takes what is left over for noise of each sample alone, so that slow waves
    make it too small.
    """
    minutes = (seconds - seconds.mean()) / 60
    spread = float(minutes @ minutes)
    rise = float(minutes @ values) / spread
    left = values - values.mean() - rise * minutes
    variance = float(left @ left) / (len(values) - 2)
    return Slope(rise, (variance / spread) ** 0.5)


def column(samples: Sequence[Sample], name: str) -> Float[np.ndarray, " T"]:
    """One quantity of each sample."""
    return np.array([getattr(sample, name) for sample in samples], np.float64)


def judge(samples: Sequence[Sample]) -> list[Finding]:
    """What samples say that were taken when everything had warmed up.

    Args:
      samples: in the order of time, :data:`LEAST_SAMPLES` or more of them at rest.

    Raises:
      GrowthError: there are fewer.
    """
    resting = [sample for sample in samples if sample.at_rest]
    if len(resting) < LEAST_SAMPLES:
        raise GrowthError(
            f"{len(resting)} samples at rest after the warm-up say nothing of growth: "
            f"at least {LEAST_SAMPLES} are needed; run longer"
        )
    seconds = column(samples, "seconds")
    rise = slope(column(resting, "seconds"), column(resting, "resident_mb"))
    found = [
        Finding(
            f"resident memory at rest {rise.per_minute:+.3f} +- "
            f"{rise.standard_error:.3f} MB a minute, {MAX_MB_PER_MINUTE:g} is allowed",
            rise.per_minute < MAX_MB_PER_MINUTE,
        )
    ]
    part = len(samples) // 6

    def least(name: str) -> tuple[float, float]:
        """But for a tenth: a thread may have just ended, and another not begun."""
        values = column(samples, name)
        early, late = (
            np.quantile(some, 0.1, method="lower")
            for some in (values[:part], values[-part:])
        )
        return float(early), float(late)

    early, late = least("children_mb")
    minutes = (seconds[-part:].mean() - seconds[:part].mean()) / 60
    grown = float(late - early) / minutes
    told = f"memory of children {grown:+.3f} MB a minute, at rest"
    found.append(Finding(told, grown < MAX_MB_PER_MINUTE))
    for name in ("open_files", "threads", "children"):
        early, late = least(name)
        told = f"{name.replace('_', ' ')}: {early:g} at first, {late:g} at the end"
        found.append(Finding(told, late <= early))
    compiled = samples[-1].compilations - samples[0].compilations
    return [*found, Finding(f"{compiled} programs compiled", compiled == 0)]


def table(samples: Sequence[Sample], title: str = "") -> str:
    """A row for each quantity: first, last, extremes and slope."""
    seconds = column(samples, "seconds")
    rows = [f"{title:16}{'first':>11}{'last':>11}{'least':>11}{'most':>11}  a minute"]
    for name in Sample._fields[1:]:
        values, digits = column(samples, name), 1 if name.endswith("_mb") else 0
        rise = slope(seconds, values)
        cells = (values[0], values[-1], values.min(), values.max())
        rows.append(
            f"{name:16}"
            + "".join(f"{cell:11,.{digits}f}" for cell in cells)
            + f"  {rise.per_minute:+.3f} +- {rise.standard_error:.3f}"
        )
    return "\n".join(rows)


def _memory(path: Path) -> dict[str, float]:
    """Millions of bytes by their names in a file of /proc."""
    rows = (line.split() for line in path.read_text().splitlines())
    return {row[0][:-1]: int(row[1]) * 1024 / _MB for row in rows if row[-1] == "kB"}


class _Mallinfo2(ctypes.Structure):
    """See mallinfo(3)."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def _heap() -> int:
    """Bytes in use of all arenas, and of blocks that were mapped."""
    tell = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if tell is None:
        return 0
    tell.restype = _Mallinfo2
    told = tell()
    return int(told.uordblks + told.hblkhd)


def _children() -> list[float]:
    """Resident memory of each child."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text()
            if f"\nPPid:\t{os.getpid()}\n" in text:
                found.append(_memory(status).get("VmRSS", 0.0))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
    return found
