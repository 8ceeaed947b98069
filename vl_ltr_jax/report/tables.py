"""Results of a run as tables with the paper's columns."""

import html
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from vl_ltr_jax.data.sources.dataset import TEST_IS_VAL
from vl_ltr_jax.logs.messages import counted
from vl_ltr_jax.systems.titles import HEAD_NAMES

RULE_NAMES = {
    "standard": "standard rule (many > 100, medium 20..100, few < 20; mean over "
    "classes)",
    "vl_ltr": "VL-LTR's rule (many > 99, medium 21..99, few <= 20; mean over images)",
}
_MARKUP = re.compile(r"([\\`*\[\]|])")
SPLIT_NAMES = {"test": "test", "val": "validation"}
_HEADS = ("Method", "Backbone", "Overall", "Many", "Medium", "Few")
_NAMED = 10  # classes in a note


class Cost(NamedTuple):
    """Cost of training, with a value for each run."""

    images_seen: Sequence[int]
    seconds: Sequence[float]


class Row(NamedTuple):
    """A row of the paper's table; each accuracy has a value for each run."""

    method: str
    backbone: str
    overall: Sequence[float | None]
    many: Sequence[float | None]
    medium: Sequence[float | None]
    few: Sequence[float | None]
    cost: Cost | None = None


def row(
    method: str,
    backbone: str,
    results: Sequence[Mapping[str, Any]],
    rule: str,
    cost: Cost | None = None,
) -> Row:
    """Returns the row of one head over one or several runs, under a shot rule."""
    groups = [result["shots"][rule] for result in results]
    many, medium, few = (
        [group[name] for group in groups] for name in ("many", "medium", "few")
    )
    overall = [result["top1"] for result in results]
    return Row(method, backbone, overall, many, medium, few, cost)


def table(rows: Sequence[Row]) -> str:
    """Returns a Markdown table: Method, Backbone, Overall, Many, Medium, Few.

    Rows with a cost add images seen in training, and seconds.
    """
    heads = [*_HEADS]
    if any(each.cost for each in rows):
        heads += ["Images seen", "Seconds"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for each in rows:
        cells = _cells(each)
        if each.cost:
            images = round(statistics.fmean(each.cost.images_seen))
            cells += [f"{images:,}", f"{statistics.fmean(each.cost.seconds):.0f}"]
        cells += ["-"] * (len(heads) - len(cells))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(row: Row) -> list[str]:
    accuracies = (row.overall, row.many, row.medium, row.few)
    return [row.method, row.backbone, *map(cell, accuracies)]


def cell(values: Sequence[float | None]) -> str:
    """Formats an accuracy over runs; `-` if no run has one."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = f"{statistics.fmean(known):.1f}"
    return f"{mean} ± {statistics.stdev(known):.1f}" if len(known) > 1 else mean


def in_order(heads: Iterable[str], own: str | None) -> list[str]:
    """Returns names of heads in the order of tables: the run's own first.

    Args:
      heads: keys of the results of a split.
      own: `predicted_by` of the results.
    """
    known = list(HEAD_NAMES)
    places = {head: known.index(head) if head in known else -1 for head in heads}
    return sorted(places, key=lambda head: (head != own, places[head], head))


def screen(
    results: Mapping[str, Any], title: str, backbone: str, names: Mapping[str, str]
) -> str:
    """Returns the paper's table under the standard rule, for a terminal.

    It covers the test images, or validation images if no test image has a label.

    Args:
      results: content of results.json.
      title: heading.
      backbone: name of the image tower.
      names: display names of heads.
    """
    own, rule = results.get("predicted_by"), "standard"
    known = (
        name
        for name in SPLIT_NAMES
        if any(head["top1"] is not None for head in results[name].values())
    )
    split = next(known, "test")
    rows = [
        _cells(row(names[head], backbone, [results[split][head]], rule))
        for head in in_order(results[split], own)
    ]
    widths = [max(map(len, column)) for column in zip(_HEADS, *rows, strict=True)]
    lines = [
        "  ".join(
            text.ljust(width) if place < 2 else text.rjust(width)
            for place, (text, width) in enumerate(zip(cells, widths, strict=True))
        )
        for cells in (_HEADS, *rows)
    ]
    about = f"accuracy in percent on the {SPLIT_NAMES[split]} images"
    rule_line = "-" * len(lines[0])
    means = f"overall over images; {RULE_NAMES[rule]}"
    return "\n".join(["", title, about, "", lines[0], rule_line, *lines[1:], "", means])


def markdown(
    results: Mapping[str, Any], title: str, backbone: str, names: Mapping[str, str]
) -> str:
    """Returns the report as Markdown; see :func:`screen` for the arguments."""
    data, cost = results["data"], results["cost"]
    parts = [
        f"# {_escaped(title)}",
        f"{counted(data['num_classes'], 'class', 'classes')}, "
        f"{counted(data['train_images'], 'training image')} "
        f"({data['largest_class']:,} to {data['smallest_class']:,} per class), "
        f"{counted(data['sentences'], 'sentence')}. "
        f"{counted(cost['images_seen'], 'image')} seen in "
        f"training, {cost['seconds']:,.0f} seconds in all. Accuracies in percent, "
        "overall and top-5 over images.",
    ]
    if data.get("test_is_val"):
        parts.append(f"There are {TEST_IS_VAL}.")
    if "anchors" in results:
        parts += map(_escaped, anchor_notes(results["anchors"]))
    for split, split_name in SPLIT_NAMES.items():
        heads = in_order(results[split], results.get("predicted_by"))
        for rule, rule_name in RULE_NAMES.items():
            rows = [
                row(names[head], backbone, [results[split][head]], rule)
                for head in heads
            ]
            parts += [f"## {split_name}, {rule_name}", table(rows)]
        for head in heads:
            result = results[split][head]
            parts.append(f"{names[head]}: {other_results(result)}.")
    versions = ", ".join(f"{k} {v}" for k, v in results["versions"].items())
    parts.append(f"Made with {versions}.")
    return "\n\n".join(parts) + "\n"


def other_results(result: Mapping[str, Any]) -> str:
    """Returns the results that a head's row leaves out, in words."""
    return (
        f"top-5 {cell([result['top5']])}, class mean {cell([result['class_mean']])}, "
        f"prediction by {result['prediction']}"
    )


def check(result: Any) -> None:
    """Checks the results of one head.

    Raises:
      LookupError, TypeError: parts are missing.
      ValueError: an accuracy is not a number from 0 to 100.
    """
    for rule in RULE_NAMES:
        groups = (result["shots"][rule][name] for name in ("many", "medium", "few"))
        for value in (result["top1"], result["class_mean"], *groups):
            number = isinstance(value, int | float)
            if value is not None and not (number and 0 <= value <= 100):
                raise ValueError(f"an accuracy is {str(value)[:50]}")


def anchor_notes(anchors: Mapping[str, Any]) -> list[str]:
    """Returns a sentence about classes without images, or with few sentences."""
    faults = {
        "without_images": "had no image to choose anchors by: the first sentences were "
        "taken, prompts before all",
        "with_fewer_sentences": f"had fewer than {anchors['num_anchors']} sentences",
    }
    notes = []
    for key, fault in faults.items():
        if names := anchors[key]:
            listed = ", ".join(names[:_NAMED]) + ", ..." * (len(names) > _NAMED)
            number = counted(len(names), "class", "classes")
            notes.append(f"{number} ({listed}) {fault}.")
    return notes


def _escaped(text: str) -> str:
    """Returns user text as one line of Markdown without markup."""
    return _MARKUP.sub(r"\\\1", html.escape(" ".join(text.split()), quote=False))
