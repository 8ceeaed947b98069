"""Facts in the text of a compiled program: collectives, and TPU cycles.

Loops count once for each pass.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

_BITS = re.compile(r"(?:pred|[a-z]+?(\d+))")
_SHAPE = re.compile(r"([a-z]+\d*)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+ = (.+?) ([a-z][\w\-]*)\(")
_CALLED = re.compile(
    r"(?:body|to_apply|calls|branch_computations|called_computations)="
    r"\{?%?([\w.\-]+(?:, ?%[\w.\-]+)*)\}?"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
# The TPU compiler does not say it: a loop ends at the constant of its condition. That
# of a product cut into pieces, each sent on beside the next one, counts without a sign.
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_CONSTANT = re.compile(r" [su]32\[\]\S* constant\((\d+)\)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
# A TPU's collective starts in one fusion and goes on beside the products of others.
_STEPS_OF_ASYNC = re.compile(r"^%?async_collective_fusion|AsyncCollectiveDone", re.M)
_START_OF_ASYNC = "AsyncCollectiveStart"
# `{{0,1},{2,3}}`, `[groups,size]<=[...]`, or `mesh['x'=4,'y'=2] {'y'}`.
_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_COUNTED = re.compile(r"replica_groups=\[\d+,(\d+)\]")
_NAMED = re.compile(r"replica_groups=mesh\[(.*?)\].*? \{('[^}]*)\}")
NAMES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "collective-permute",
    "all-to-all",
)


class Collective(NamedTuple):
    """All collectives of one name in one execution of a program, on one device.

    Attributes:
      num_calls: how many run.
      output_bytes: of their results.
      wire_bytes: what a device sends when they run around a ring.
      async_bytes: of these, what is sent between a start and its end, so that other
        work may run beside it.
    """

    num_calls: int
    output_bytes: int
    wire_bytes: float
    async_bytes: float = 0.0


def collectives(hlo_text: str) -> dict[str, Collective]:
    """Counts the collectives of a partitioned program, from `compiled.as_text()`.

    Raises:
      ValueError: a loop that holds collectives does not tell its number of passes, or
        a collective its devices.
    """
    counts: dict[str, list[float]] = defaultdict(lambda: [0, 0, 0, 0])
    for line, times, starts in _executed(hlo_text, inside_fusions=True):
        match = _INSTRUCTION.match(line)
        name = match[2].removesuffix("-start") if match else ""
        if match is None or name not in NAMES:
            continue
        if times < 0:
            raise ValueError(f"a collective in a loop of unknown length: {line}")
        size = _bytes(match[1], largest=match[2] != name)
        wire = _wire_bytes(name, size, _group_size(line))
        is_async = starts or match[2] != name
        for index, value in enumerate((1, size, wire, wire * is_async)):
            counts[name][index] += times * value
    return {
        name: Collective(int(count), int(size), wire, hidden)
        for name, (count, size, wire, hidden) in sorted(counts.items())
    }


def cycles(hlo_text: str) -> int:
    """Returns the TPU compiler's estimate of cycles; 0 for other compilers.

    A loop of unknown length counts once.
    """
    return sum(
        abs(times) * int(match[1])
        for line, times, _ in _executed(hlo_text, inside_fusions=False)
        if (match := _CYCLES.search(line))
    )


def _executed(text: str, *, inside_fusions: bool) -> Iterator[tuple[str, int, bool]]:
    """Yields the instructions of a program, how often each runs, and if one starts.

    The number is negative in a loop of unknown length. The last is True in a fusion
    that starts a collective and does not wait for it.
    """
    bodies, entry = _computations(text)

    def visit(computation: str, times: int) -> Iterator[tuple[str, int, bool]]:
        starts = any(_START_OF_ASYNC in line for line in bodies[computation])
        for line in bodies[computation]:
            yield line, times, starts
            match = _INSTRUCTION.match(line)
            opcode = match[2] if match else ""
            if not opcode or (opcode == "fusion" and not inside_fusions):
                continue
            passes = _passes(bodies, line) if opcode == "while" else 1
            for called in _CALLED.findall(line):
                for inner in re.findall(r"[\w.\-]+", called):
                    if inner in bodies and not is_step(inner):
                        sign = -1 if min(passes, times) < 0 else 1
                        yield from visit(inner, sign * abs(times * passes))

    def is_step(name: str) -> bool:
        """True for a part of a collective that was counted where it starts."""
        return bool(_STEPS_OF_ASYNC.search("\n".join([name, *bodies[name]])))

    yield from visit(entry, 1)


def _passes(bodies: dict[str, list[str]], line: str) -> int:
    """Returns the passes of a loop; -1 if unknown."""
    if known := _TRIPS.search(line):
        return int(known[1])
    condition = _CONDITION.search(line)
    lines = bodies.get(condition[1], []) if condition else []
    limits = [match[1] for text in lines if (match := _CONSTANT.search(text))]
    if len(limits) == 1 and any("direction=LT" in text for text in lines):
        return int(limits[0])
    return -1


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    bodies: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            lines = bodies[match[1]] = []
            entry = match[1] if line.startswith("ENTRY") else entry
        else:
            lines.append(line)
    return bodies, entry


def _bytes(shape: str, *, largest: bool) -> int:
    """Bytes of a shape, or of a tuple; a started collective's result is the largest."""
    sizes = [
        math.prod(int(n) for n in dims.split(",") if n) * _element_bytes(kind)
        for kind, dims in _SHAPE.findall(shape)
    ]
    return max(sizes) if largest else sum(sizes)


def _element_bytes(kind: str) -> int:
    match = _BITS.fullmatch(kind)
    return 1 if match is None or match[1] is None else max(int(match[1]) // 8, 1)


def _group_size(line: str) -> int:
    if match := _LISTED.search(line):
        return len(match[1].split(","))
    if match := _COUNTED.search(line):
        return int(match[1])
    if match := _NAMED.search(line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"\w+", match[2]))
    if "source_target_pairs" in line:
        return 2
    raise ValueError(f"a collective of an unknown group: {line.strip()}")


def _wire_bytes(name: str, output_bytes: int, devices: int) -> float:
    if name == "collective-permute":
        return output_bytes
    if name == "reduce-scatter":
        return output_bytes * (devices - 1)
    share = (devices - 1) / devices
    return output_bytes * share * (2 if name == "all-reduce" else 1)
