"""A repeated step as a table for a terminal, and as JSON."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from vl_ltr_jax.run.replay.array_sizes import ArraySize
from vl_ltr_jax.run.replay.repeat import FaultyRow, Repeat
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.train import incidents

_NUM_LINES = 5  # arrays of a tree, or rows


def to_text(step: Repeat, run: Run) -> str:
    """Formats metrics, norms and faulty rows; what is not finite comes first."""
    start = f"checkpoint {step.started}" if step.started else "the start"
    lines = [
        f"{step.stage}, step {step.step} of {step.num_steps}, repeated from {start} "
        f"on {step.devices}.",
        _verdict(step),
        "",
        *(f"  {name:<50}{value:>12.6g}" for name, value in step.metrics.items()),
        "",
        f"  {'':<50}{'largest':>12}  not finite",
    ]
    for title, sizes in step.arrays.items():
        lines.append(f"{title}: {len(sizes)} arrays")
        lines += _array_lines(sizes)
    for name, values in step.rows.items():
        finite = np.where(np.isfinite(values), values, 0)
        wrong = f"{np.sum(~np.isfinite(values))} of {len(values)} rows"
        lines.append(f"  {name:<50}{finite.max():>12.4g}  {wrong}")
    lines.append(f"faulty rows: {len(step.faulty)}")
    lines += [f"  {_row_line(row, run)}" for row in step.faulty[:_NUM_LINES]]
    lines += _more(len(step.faulty))
    return "\n".join(lines)


def to_json(step: Repeat, run: Run) -> str:
    """Formats one JSON object; NaN is `"nan"`."""
    incident, names = step.incident, run.inputs.data.class_names
    content: dict[str, Any] = {
        "stage": step.stage,
        "step": step.step,
        "requested": step.requested,
        "num_steps": step.num_steps,
        "started": step.started,
        "devices": step.devices,
        "devices_of_the_run": incident.devices if incident else None,
        "comes_back": step.comes_back,
        "equal": step.equal,
        "not_finite": step.not_finite,
        "metrics": {k: incidents.number(value) for k, value in step.metrics.items()},
        **{
            title: {path: size._asdict() for path, size in sizes.items()}
            for title, sizes in step.arrays.items()
        },
        "rows": {
            name: [incidents.number(float(value)) for value in values]
            for name, values in step.rows.items()
        },
        "wrong_rows": [
            {**dataclasses.asdict(row), "class": names[row.label]}
            for row in step.faulty
        ],
    }
    return json.dumps(content, indent=2)


def _verdict(step: Repeat) -> str:
    if step.step != step.requested:
        return f"Step {step.step} is not finite here; it was in the run."
    if step.incident is None:
        return "Not all of it is finite." if step.not_finite else "All of it is finite."
    ran_on = step.incident.devices
    other = f" The run was on {ran_on}." if ran_on != step.devices else ""
    if not step.not_finite:
        return f"The fault does not come back.{other}"
    if step.equal:
        return "The fault comes back; all metrics equal the run's to the last bit."
    return f"The fault comes back; other metrics differ from the run's.{other}"


def _array_lines(sizes: dict[str, ArraySize]) -> Iterator[str]:
    order = sorted(sizes, key=lambda path: sizes[path][::2], reverse=True)
    for path in order[:_NUM_LINES]:
        size = sizes[path]
        wrong = f"{size.not_finite:,} of {size.total:,}"
        yield f"  {path:<50}{size.largest:>12.4g}  {wrong}"
    yield from _more(len(order))


def _row_line(row: FaultyRow, run: Run) -> str:
    name = run.inputs.data.class_names[row.label]
    sentence = f', "{row.sentence}"' if row.sentence else ""
    names = ", ".join(row.not_finite)
    return f"row {row.row}: {names}: {row.image}, {name} (label {row.label}){sentence}"


def _more(count: int) -> list[str]:
    return [f"  and {count - _NUM_LINES} more"] if count > _NUM_LINES else []
