"""Counts the collectives of a compiled program, loops included, by name and bytes."""

import math
import re
from collections import defaultdict
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
    """

    num_calls: int
    output_bytes: int
    wire_bytes: float


def collectives(hlo_text: str) -> dict[str, Collective]:
    """Counts the collectives of a partitioned program.

    Args:
      hlo_text: `compiled.as_text()`.

    Returns:
      Name to counts; a collective in a loop counts once for each pass.

    Raises:
      ValueError: if a loop that holds collectives does not tell its number of passes,
        or a collective its devices.
    """
    bodies, entry = _computations(hlo_text)
    counts: dict[str, list[float]] = defaultdict(lambda: [0, 0, 0])

    def visit(computation: str, times: int) -> None:
        for line in bodies[computation]:
            match = _INSTRUCTION.match(line)
            if not match:
                continue
            shape, opcode = match.groups()
            name = opcode.removesuffix("-start")
            if name in NAMES:
                size = _bytes(shape, largest=opcode != name)
                devices = _group_size(line)
                for index, value in enumerate(
                    (1, size, _wire_bytes(name, size, devices))
                ):
                    counts[name][index] += times * value
                continue
            trips = 1
            if opcode == "while":
                known = _TRIPS.search(line)
                trips = int(known[1]) if known else -1
            for called in _CALLED.findall(line):
                for inner in re.findall(r"[\w.\-]+", called):
                    if inner not in bodies:
                        continue
                    if trips < 0 and _holds_collectives(bodies, inner):
                        raise ValueError(f"a loop of unknown length: {line.strip()}")
                    visit(inner, times * max(trips, 1))

    visit(entry, 1)
    return {
        name: Collective(int(count), int(size), wire)
        for name, (count, size, wire) in sorted(counts.items())
    }


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


def _holds_collectives(bodies: dict[str, list[str]], name: str) -> bool:
    return any(re.search(rf" ({'|'.join(NAMES)})", line) for line in bodies[name])


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
