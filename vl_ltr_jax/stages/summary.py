"""Lines for a console that sum up a stage, or the run's head."""

from collections.abc import Mapping
from typing import Any

from vl_ltr_jax.logs import messages


def of_stage(summary: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Formats the summary of a stage; `names` are from :func:`titles.head_names`."""
    duration = f"in {messages.format_duration(summary['seconds'])}"
    if "test" in summary:
        return f"{of_head(summary, names)}, {duration}"
    if "steps" in summary:
        losses = summary.get("losses") or {}
        loss = [f"{name} {value:.4g}" for name, value in losses.items()][:1]
        total = f"{summary['steps']:,} steps, {summary['images_seen']:,} images"
        return ", ".join([f"{total} {duration}", *loss])
    if "anchors" in summary:
        chosen, known = summary["anchors"], summary["sentences"]
        return f"{chosen:,} of {known:,} sentences chosen {duration}"
    if "sentences" in summary:
        total = f"{summary['sentences']:,} sentences, {summary['images']:,} images"
        return f"{total} {duration}"
    return f"finished {duration}"


def of_head(results: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Formats the test accuracies of the run's head, in percent."""
    head = results.get("predicted_by") or next(iter(results["test"]), None)
    if head is None:
        return "no head was evaluated"
    result = results["test"][head]
    groups = {"overall": result["top1"], **result["shots"]["standard"]}
    known = [f"{v:.1f} {name}" for name, v in groups.items() if v is not None]
    return f"test {', '.join(known)} ({names[head]})"
