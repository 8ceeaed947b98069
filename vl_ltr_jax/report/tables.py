"""The end of a run: results.json and a table in the paper's column order."""

import dataclasses
import html
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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
_NAMED = 10  # classes that a sentence of the report names


@dataclasses.dataclass(frozen=True)
class Cost:
    """What training took; each has a value for every run."""

    images_seen: Sequence[int]
    seconds: Sequence[float]


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the paper's table; each accuracy has a value for every run."""

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
    """The line of one head over one or several runs, under a shot rule."""
    groups = [result["shots"][rule] for result in results]
    many, medium, few = (
        [group[name] for group in groups] for name in ("many", "medium", "few")
    )
    overall = [result["top1"] for result in results]
    return Row(method, backbone, overall, many, medium, few, cost)


def table(rows: Sequence[Row]) -> str:
    """Lines as a Markdown table: Method, Backbone, Overall, Many, Medium, Few.

    Where lines have a cost, so has the table: images seen in training, and seconds.
    """
    heads = [*_HEADS]
    if any(line.cost for line in rows):
        heads += ["Images seen", "Seconds"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for line in rows:
        cells = _cells(line)
        if line.cost:
            images = round(statistics.fmean(line.cost.images_seen))
            cells += [f"{images:,}", f"{statistics.fmean(line.cost.seconds):.0f}"]
        cells += ["-"] * (len(heads) - len(cells))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(line: Row) -> list[str]:
    accuracies = (line.overall, line.many, line.medium, line.few)
    return [line.method, line.backbone, *map(cell, accuracies)]


def cell(values: Sequence[float | None]) -> str:
    """An accuracy over runs as tables have it; `-` where no run has one."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = f"{statistics.fmean(known):.1f}"
    return f"{mean} ± {statistics.stdev(known):.1f}" if len(known) > 1 else mean


def in_order(heads: Iterable[str], own: str | None) -> list[str]:
    """Names of heads as tables list them: the run's own first.

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
    """What a person reads at the end: the paper's table under the standard rule.

    Of the test images, or of the validation images where no test image is labelled.

    Args:
      results: as in results.json.
      title: of the whole.
      backbone: of the image tower.
      names: of heads.
    """
    own, rule = results.get("predicted_by"), "standard"
    split = next(
        (
            name
            for name in SPLIT_NAMES
            if any(head["top1"] is not None for head in results[name].values())
        ),
        "test",
    )
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
    under = "-" * len(lines[0])
    means = f"overall over images; {RULE_NAMES[rule]}"
    return "\n".join(["", title, about, "", lines[0], under, *lines[1:], "", means])


def markdown(
    results: Mapping[str, Any], title: str, backbone: str, names: Mapping[str, str]
) -> str:
    """The whole report as Markdown.

    Args:
      results: as in results.json.
      title: of the whole.
      backbone: of the image tower.
      names: of heads.
    """
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
            parts.append(f"{names[head]}: {beside(result)}.")
    versions = ", ".join(f"{k} {v}" for k, v in results["versions"].items())
    parts.append(f"Made with {versions}.")
    return "\n\n".join(parts) + "\n"


def beside(result: Mapping[str, Any]) -> str:
    """Returns what a head's line of the table leaves out, in words."""
    return (
        f"top-5 {cell([result['top5']])}, class mean {cell([result['class_mean']])}, "
        f"prediction by {result['prediction']}"
    )


def check(result: Any) -> None:
    """Checks that the results of one head are what tables read.

    Raises:
      LookupError: (or a TypeError) if parts are missing.
      ValueError: an accuracy is not a number from 0 to 100.
    """
    for rule in RULE_NAMES:
        groups = (result["shots"][rule][name] for name in ("many", "medium", "few"))
        for value in (result["top1"], result["class_mean"], *groups):
            number = isinstance(value, int | float)
            if value is not None and not (number and 0 <= value <= 100):
                raise ValueError(f"an accuracy is {str(value)[:50]}")


def anchor_notes(told: Mapping[str, Any]) -> list[str]:
    """What classes lack for anchors of their own choice, in a sentence each."""
    num_anchors = told["num_anchors"]
    faults = {
        "without_images": "had no image to choose anchors by: the first sentences were "
        "taken, prompts before all",
        "with_fewer_sentences": f"had fewer than {num_anchors} sentences",
    }
    return [
        f"{_classes(told[key])} {fault}." for key, fault in faults.items() if told[key]
    ]


def _classes(names: Sequence[str]) -> str:
    """How many, and the first of their names."""
    named = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    return f"{counted(len(names), 'class', 'classes')} ({named})"


def _escaped(text: str) -> str:
    """Names of others in Markdown: no markup, one line."""
    return _MARKUP.sub(r"\\\1", html.escape(" ".join(text.split()), quote=False))
