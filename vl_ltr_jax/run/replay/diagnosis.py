"""What a repeated step tells: in words, as JSON, and what to try."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from vl_ltr_jax.config.settings import Training
from vl_ltr_jax.run.replay.array_sizes import HUGE, ArraySize
from vl_ltr_jax.run.replay.repeat import Repeat, WrongRow
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.train import incidents, row_probe

_SHOWN = 5  # arrays or rows in a text
_NEAR_LIMIT = 0.999  # a clamped scale comes back from its logarithm with rounding


def verdict(seen: Repeat) -> str:
    """Whether the fault comes back, in a sentence or two."""
    incident, wrong = seen.incident, seen.not_finite
    if seen.step != seen.asked:
        return (
            f"Step {seen.step}, before the one asked for, is not finite here, which "
            f"the run went past: {_elsewhere(seen)}."
        )
    if incident is None:
        return "Not all of it is finite." if wrong else "All of it is finite."
    if not wrong:
        return f"The fault does not come back: {_elsewhere(seen)}."
    if set(wrong) != set(incident.not_finite):
        return (
            "The fault comes back, in other metrics; in the run it was "
            f"{', '.join(incident.not_finite)}: {_elsewhere(seen)}."
        )
    kept = {name: float(value) for name, value in incident.metrics.items()}
    different = [
        name
        for name, value in seen.metrics.items()
        if math.isfinite(value) and kept.get(name) != value
    ]
    if different:
        return (
            "The fault comes back, in the same metrics; others differ from the run's "
            f"({', '.join(different)}): {_elsewhere(seen)}."
        )
    return (
        "The fault comes back: the same metrics are not finite, and all others are "
        "equal to the run's to the last bit."
    )


def advice(seen: Repeat, run: Run) -> list[str]:
    """What to try, the likeliest first; nothing where nothing is wrong."""
    config, tried = run.config, []
    if not seen.not_finite:
        if seen.incident is None:
            return []
        return [
            "start the run's command again: it goes on from its last checkpoint. If it "
            "stops again and this still finds nothing, test the machine that it ran on"
        ]
    slower = _slower(seen, run)
    if not all(size.fine for size in seen.state.values()):
        tried.append(f"parameters were huge before the step already: {slower}")
    elif any(size.not_finite for size in seen.frozen.values()) or (
        seen.wrong and 2 * len(seen.wrong) <= len(next(iter(seen.lengths.values())))
    ):
        tried += _about_rows(seen, run)
    if seen.finite_in_float32:
        tried.append(
            "in float32 the step is finite: --config.model.compute_dtype=float32, in a "
            "new --workdir"
        )
    limit = config.pretrain.max_logit_scale
    if "logit_scale" in seen.metrics:
        scale = seen.metrics["logit_scale"]
        if limit and scale >= _NEAR_LIMIT * limit:
            tried.append(
                f"the logit scale is at its limit, pretrain.max_logit_scale={limit:g}: "
                "lower the learning rate, or that limit"
            )
        elif not limit and not scale <= 100:
            tried.append(
                f"the logit scale is {scale:g} and has no limit: "
                "--config.pretrain.max_logit_scale=100 is CLIP's"
            )
    if not tried:
        tried.append(slower)
    if config.faults.non_finite == "stop" and all(s.fine for s in seen.state.values()):
        tried.append(
            "to go on past such steps, where they are few: "
            "--config.faults.non_finite=skip (of a stage at most "
            f"faults.max_skipped_steps={config.faults.max_skipped_steps})"
        )
    return tried


def to_text(seen: Repeat, run: Run) -> str:
    """All of it for people."""
    begun = f"checkpoint {seen.started}" if seen.started else "the start"
    lines = [
        f"{seen.stage}, step {seen.step} of {seen.num_steps}, made again from {begun} "
        f"on {seen.devices}.",
        verdict(seen),
        "",
        *(
            f"  {name:<26}{value:.6g}" + ("" if math.isfinite(value) else "  <- !")
            for name, value in seen.metrics.items()
        ),
        "",
        _arrays("state before the step", seen.state, _told_state),
        _arrays("what never changes", seen.frozen, _told_wrong),
        _arrays("gradients", seen.gradients, _told_wrong),
        *(_largest(name, values) for name, values in _by_row(seen).items()),
    ]
    if seen.wrong:
        total = len(next(iter(seen.lengths.values())))
        lines.append(f"rows that give what is not finite: {len(seen.wrong)} of {total}")
        lines += [f"  {_told_row(one, run)}" for one in seen.wrong[:_SHOWN]]
        lines += _more(seen.wrong)
    elif seen.lengths:
        lines.append("rows that give what is not finite: none")
    if tried := advice(seen, run):
        lines += ["", "What to try:", *(f"  - {one}" for one in tried)]
    return "\n".join(lines)


def to_json(seen: Repeat, run: Run) -> str:
    """All of it for machines, in one object; NaN is `"nan"`."""
    names = run.inputs.data.class_names
    content: dict[str, Any] = {
        "stage": seen.stage,
        "step": seen.step,
        "asked": seen.asked,
        "num_steps": seen.num_steps,
        "started": seen.started,
        "devices": seen.devices,
        "verdict": verdict(seen),
        "comes_back": None
        if seen.incident is None
        else seen.step == seen.asked
        and set(seen.not_finite) == set(seen.incident.not_finite),
        "not_finite": seen.not_finite,
        "metrics": {k: incidents.number(v) for k, v in seen.metrics.items()},
        "state": _sizes(seen.state, lambda size: not size.fine),
        "frozen": _sizes(seen.frozen, lambda size: bool(size.not_finite)),
        "gradients": _sizes(seen.gradients, lambda size: bool(size.not_finite)),
        "rows": {
            name: [incidents.number(float(value)) for value in values]
            for name, values in _by_row(seen).items()
        },
        "wrong_rows": [
            {
                "row": one.row,
                "not_finite": one.found,
                "index": one.index,
                "image": one.image,
                "label": one.label,
                "class": names[one.label],
                "sentence": one.sentence,
            }
            for one in seen.wrong
        ],
        "finite_in_float32": seen.finite_in_float32,
        "advice": advice(seen, run),
    }
    return json.dumps(content, indent=2)


def _elsewhere(seen: Repeat) -> str:
    """What may be another than in the run."""
    ran_on = seen.incident.devices if seen.incident else ""
    if ran_on and ran_on != seen.devices:
        return f"the run was on {ran_on}, this is on {seen.devices}"
    return (
        "another mesh, another version of a library, or a fault of the hardware that "
        "the run was on"
    )


def _about_rows(seen: Repeat, run: Run) -> list[str]:
    """What to do about what single rows, or damaged files, have brought in."""
    found = {name for one in seen.wrong for name in one.found}
    directory, tried = run.artifact(seen.stage).directory, []
    frozen = any(size.not_finite for size in seen.frozen.values())
    if found & {row_probe.FROZEN_SENTENCE}:
        tried.append(
            "what is kept of the frozen CLIP's sentences is damaged: move "
            f"{run.workdir / 'teacher'} elsewhere, and it is made again"
        )
    elif frozen:
        tried.append(
            f"arrays that {seen.stage} reads and never changes are not finite: what an "
            f"earlier stage left in {run.workdir} is damaged; move that stage's "
            "directory and those after it elsewhere, and they are made again"
        )
    if row_probe.FEATURES in found and all(one.pixels is None for one in seen.wrong):
        tried.append(
            "the features kept of these images are not finite: move "
            f"{directory / 'views'} elsewhere, and it is made again"
        )
    elif found & {row_probe.IMAGE, row_probe.FEATURES, row_probe.FROZEN_IMAGE}:
        tried.append(
            "look at these images (--out=sheet.png), and mend them or leave them out "
            "of the training list, in a new --workdir"
        )
    if row_probe.SENTENCE in found:
        tried.append(
            "take these sentences out of the text of their class, in a new --workdir"
        )
    return tried


def _slower(seen: Repeat, run: Run) -> str:
    section = getattr(run.config, seen.stage, None)
    if not isinstance(section, Training):  # of a method of one's own
        return "lower the learning rate or lengthen the warm-up, in a new --workdir"
    rates = [v for name, v in seen.metrics.items() if name.startswith("learning_rate")]
    now = " and ".join(f"{rate:g}" for rate in rates)
    return (
        f"lower {seen.stage}.learning_rate (it is {section.learning_rate:g}, and was "
        f"{now} at this step) or lengthen {seen.stage}.warmup_epochs (it is "
        f"{section.warmup_epochs}), in a new --workdir"
    )


def _by_row(seen: Repeat) -> dict[str, Float[np.ndarray, " B"]]:
    lengths = {f"length of {name}": values for name, values in seen.lengths.items()}
    return {**lengths, **{f"largest of {k}": v for k, v in seen.logits.items()}}


def _arrays(title: str, sizes: Mapping[str, ArraySize], told: Any) -> str:
    """A line for all, and one for each of the first that are wrong."""
    wrong = [f"  {path}: {words}" for path, s in sizes.items() if (words := told(s))]
    if not wrong:
        most = max(sizes.items(), key=lambda one: one[1].largest, default=None)
        largest = f", the largest {most[1].largest:.4g} in {most[0]}" if most else ""
        return f"{title}: {len(sizes)} arrays, all finite{largest}"
    head = f"{title}: {len(wrong)} of {len(sizes)} arrays are not fine"
    return "\n".join([head, *wrong[:_SHOWN], *_more(wrong)])


def _told_wrong(size: ArraySize) -> str:
    if not size.not_finite:
        return ""
    return f"{size.not_finite:,} of {size.total:,} numbers are not finite"


def _told_state(size: ArraySize) -> str:
    huge = f"up to {size.largest:.4g}" if size.largest > HUGE else ""
    return _told_wrong(size) or huge


def _largest(name: str, values: Float[np.ndarray, " B"]) -> str:
    finite = np.where(np.isfinite(values), values, -1.0)
    row = int(finite.argmax())
    if finite[row] < 0:
        return f"{name}: not finite in any row"
    return f"{name}: up to {values[row]:.4g} (row {row})"


def _told_row(one: WrongRow, run: Run) -> str:
    name = run.inputs.data.class_names[one.label]
    sentence = f', "{one.sentence}"' if one.sentence else ""
    found = ", ".join(one.found)
    return f"row {one.row}: {found}: {one.image}, {name} (label {one.label}){sentence}"


def _more(listed: Sequence[Any]) -> list[str]:
    more = len(listed) - _SHOWN
    return [f"  and {more} more"] if more > 0 else []


def _sizes(sizes: Mapping[str, ArraySize], wrong: Any) -> dict[str, Any]:
    return {
        "arrays": len(sizes),
        "wrong": {path: size._asdict() for path, size in sizes.items() if wrong(size)},
    }
