"""Lines that sum up a stage, or the head that a run was made for, for a console."""

from collections.abc import Mapping
from typing import Any

from vl_ltr_jax.logs import messages

_RULE = "standard"


def of_stage(summary: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """What a stage has made, and how long it took.

    Args:
      summary: of its artifact.
      names: see :func:`head_names`.
    """
    duration = f"in {messages.format_duration(summary['seconds'])}"
    if "test" in summary:
        return f"{of_head(summary, names)}, {duration}"
    if "steps" in summary:
        losses = summary.get("losses") or {}
        told = [f"{name} {value:.4g}" for name, value in losses.items()][:1]
        made = f"{summary['steps']:,} steps, {summary['images_seen']:,} images"
        return ", ".join([f"{made} {duration}", *told])
    if "anchors" in summary:
        chosen, known = summary["anchors"], summary["sentences"]
        return f"{chosen:,} of {known:,} sentences chosen {duration}"
    if "sentences" in summary:
        made = f"{summary['sentences']:,} sentences, {summary['images']:,} images"
        return f"{made} {duration}"
    return f"finished {duration}"


def of_head(told: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Test accuracies of the head a run was made for, in percent.

    Args:
      told: a summary of evaluation, or results: `test`, and `predicted_by`; without
        that the first head is taken.
      names: of heads.
    """
    head = told.get("predicted_by") or next(iter(told["test"]), None)
    if head is None:
        return "no head was evaluated"
    result = told["test"][head]
    groups = {"overall": result["top1"], **result["shots"][_RULE]}
    known = [f"{v:.1f} {name}" for name, v in groups.items() if v is not None]
    return f"test {', '.join(known)} ({names[head]})"
