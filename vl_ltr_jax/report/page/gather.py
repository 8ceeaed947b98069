"""Collects the content of a page from the files of a run."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from vl_ltr_jax.config import settings
from vl_ltr_jax.evaluate.accuracy import Ranking
from vl_ltr_jax.logs import messages
from vl_ltr_jax.method import shots
from vl_ltr_jax.report import tables
from vl_ltr_jax.report.page import learning, per_class, pictures, sentences, text
from vl_ltr_jax.report.page.content import (
    GROUPS,
    ConfusionLine,
    Content,
    DataGroup,
    Row,
    Setting,
    StageCost,
    Table,
    Tile,
)
from vl_ltr_jax.report.page.per_class import RULE
from vl_ltr_jax.report.page.sentences import Selection
from vl_ltr_jax.systems import titles

SPLITS = ("test", "val")
SPLIT_NAMES = tables.SPLIT_NAMES
_MAX_VALUE = 300  # characters of a configuration's value
_DEFAULTS = settings.flatten(settings.Config())
_SELECTIONS = {"anss": "AnSS", "cutoff": "cut-off", "random": "chance"}
_COLUMNS = ("overall", *GROUPS)


class Method(NamedTuple):
    """The system of a run, its own head, and names of heads unlike `HEAD_NAMES`."""

    title: str
    head: str
    head_names: Mapping[str, str] = {}


def gather(
    *,
    results: Mapping[str, Any],
    configuration: Mapping[str, Any],
    method: Method,
    class_names: Sequence[str],
    train_counts: Int[np.ndarray, "C"],
    rankings: Mapping[str, Ranking] | None = None,
    curves: learning.Curves | None = None,
    selection: Selection | None = None,
    explained: Sequence[pictures.Explained] = (),
    made_on: str = "",
) -> Content:
    """Returns the content of the page, without the parts that the run lacks.

    Args:
      results: content of results.json.
      configuration: content of config.json.
      method: system of the run.
      class_names: C names.
      train_counts: training images of each class.
      rankings: rankings of `test` and `val`.
      curves: steps and values by stage and scalar.
      selection: corpus and anchors.
      explained: pictures with explanations.
      made_on: date, if the page has one.
    """
    rankings = {s: r for s, r in (rankings or {}).items() if len(r.labels)}
    heads = {s: results[s].get(method.head) for s in SPLITS}
    known = (s for s, head in heads.items() if head and head["top1"] is not None)
    split = next(known, SPLITS[0])
    ranked = next((s for s in (split, *SPLITS) if s in rankings), None)
    backbone = str(configuration["model"]["backbone"])
    cost, notes = results["cost"], []
    if "anchors" in results:
        notes = tables.anchor_notes(results["anchors"])
    classes, confusion = None, list[ConfusionLine]()
    if ranked:
        arguments = (rankings[ranked], class_names, train_counts)
        classes = per_class.per_class(SPLIT_NAMES[ranked], *arguments)
        if len(class_names) > 1:
            confusion = per_class.confusion(*arguments)
    return Content(
        title=text.name(str(results["data"]["name"])),
        method=text.name(method.title),
        facts=_facts(results, configuration),
        split=SPLIT_NAMES[split],
        tiles=_tiles(heads[split], train_counts),
        tables=tuple(_table(s, results[s], method, backbone, rankings) for s in SPLITS),
        notes=tuple(text.line(note, 3000) for note in notes),
        train_counts=train_counts,
        groups=_groups(train_counts, rankings),
        data=_data(results["data"]),
        per_class=classes,
        confusion=tuple(confusion),
        curves=learning.stages(curves or {}),
        selection=_SELECTIONS[selection.name] if selection else "",
        anchors=sentences.examples(selection, class_names, train_counts)
        if selection
        else (),
        explained=pictures.explained(explained, class_names),
        explained_split=SPLIT_NAMES[ranked or split],
        settings=_settings(configuration),
        costs=_costs(cost),
        duration=messages.format_duration(cost["seconds"]),
        images_seen=int(cost["images_seen"]),
        versions=_versions(results["versions"]),
        made_on=text.line(made_on, 60),
    )


def _facts(
    results: Mapping[str, Any], configuration: Mapping[str, Any]
) -> tuple[str, ...]:
    data, model = results["data"], configuration["model"]
    facts = (
        str(model["backbone"]),
        f"{model['image_size']} px",
        text.of_classes(data["num_classes"]),
        f"{data['train_images']:,} training images",
        f"{data['sentences']:,} sentences" if data["sentences"] else "",
        f"seed {configuration['seed']}",
    )
    return tuple(text.line(fact, 60) for fact in facts if fact)


def _tiles(
    head: Mapping[str, Any] | None, train_counts: Int[np.ndarray, "C"]
) -> tuple[Tile, ...]:
    """Returns the four accuracies of the run's own head."""
    if head is None:
        return ()
    top5 = "" if head["top5"] is None else f" · top-5 {head['top5']:.1f}"
    tiles = [Tile("overall", head["top1"], text.of_classes(len(train_counts)) + top5)]
    for group, members in shots.shot_groups(train_counts, RULE).items():
        low, high = shots.SHOT_RULES[RULE][group]
        allowed = f"over {low - 1}" if high is None else f"{low}–{high}"
        if not low:
            allowed = f"under {(high or 0) + 1}"
        detail = f"{text.of_classes(int(members.sum()))} · {allowed} images"
        tiles.append(Tile(group, head["shots"][RULE][group], detail))
    return tuple(tiles)


def _table(
    split: str,
    heads: Mapping[str, Any],
    method: Method,
    backbone: str,
    rankings: Mapping[str, Ranking],
) -> Table:
    names = {**titles.HEAD_NAMES, **method.head_names}
    in_order = tables.in_order(heads, method.head)
    rules = {}
    for rule, rule_name in tables.RULE_NAMES.items():
        rows = [
            tables.row(text.name(names[head]), backbone, [heads[head]], rule)
            for head in in_order
        ]
        cells = [
            tuple(tables.cell(getattr(row, column)) for column in _COLUMNS)
            for row in rows
        ]
        # The best by the printed digit: readers see no further digit.
        best = [max(column, key=_number) for column in zip(*cells, strict=True)]
        rules[rule_name] = tuple(
            Row(
                row.method,
                row.backbone,
                mine,
                tuple(
                    len(rows) > 1 and a == b != "-"
                    for a, b in zip(mine, best, strict=True)
                ),
                head == method.head,
            )
            for head, row, mine in zip(in_order, rows, cells, strict=True)
        )
    notes = tuple(
        text.line(f"{names[head]}: {tables.other_results(heads[head])}.", 200)
        for head in in_order
    )
    images = len(rankings[split].labels) if split in rankings else None
    return Table(SPLIT_NAMES[split], images, rules, notes)


def _number(cell: str) -> float:
    return -1 if cell == "-" else float(cell)


def _groups(
    train_counts: Int[np.ndarray, "C"], rankings: Mapping[str, Ranking]
) -> tuple[DataGroup, ...]:
    size = len(train_counts)
    images = {
        SPLIT_NAMES[split]: np.bincount(rankings[split].labels, minlength=size)
        for split in SPLITS
        if split in rankings
    }
    return tuple(
        DataGroup(
            group,
            int(members.sum()),
            int(train_counts[members].sum()),
            {name: int(counts[members].sum()) for name, counts in images.items()},
        )
        for group, members in shots.shot_groups(train_counts, RULE).items()
    )


def _data(data: Mapping[str, Any]) -> dict[str, str]:
    largest, smallest = data["largest_class"], data["smallest_class"]
    facts = {
        "Classes": f"{data['num_classes']:,}",
        "Training images": f"{data['train_images']:,}",
        "Validation images": f"{data['val_images']:,}",
        "Test images": "those of validation"
        if data.get("test_is_val")
        else f"{data['test_images']:,}",
        "Largest class": f"{largest:,} images",
        "Smallest class": f"{smallest:,} images",
        "Sentences": f"{data['sentences']:,}",
    }
    if smallest:
        facts["Imbalance"] = f"{largest / smallest:,.0f} to 1"
    return facts


def _settings(configuration: Mapping[str, Any]) -> dict[str, tuple[Setting, ...]]:
    """Returns all keys by section; keys outside sections come first, under ''."""
    sections: dict[str, list[Setting]] = {"": []}
    for section, content in configuration.items():
        inside = isinstance(content, Mapping)
        for name, value in (content if inside else {section: content}).items():
            key = f"{section}.{name}" if inside else section
            default = _DEFAULTS[key] if key in _DEFAULTS else value
            changed = None if default == value else _value(default)
            setting = Setting(key, _value(value), changed)
            sections.setdefault(section if inside else "", []).append(setting)
    return {name: tuple(keys) for name, keys in sections.items() if keys}


def _value(value: Any) -> str:
    if value == "":
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    return text.line(str(value), _MAX_VALUE)


def _versions(versions: Mapping[str, Any]) -> dict[str, str]:
    """Returns versions of programs, with the commit shortened."""
    lines = {name: text.line(str(version), 120) for name, version in versions.items()}
    if "commit" in lines:
        revision, plus, changes = lines["commit"].partition("+")
        lines["commit"] = revision[:12] + plus + changes
    return lines


def _costs(cost: Mapping[str, Any]) -> tuple[StageCost, ...]:
    total = cost["seconds"] or 1
    return tuple(
        StageCost(
            text.line(stage, 60),
            int(stage_cost["images_seen"]),
            messages.format_duration(stage_cost["seconds"]),
            100 * stage_cost["seconds"] / total,
        )
        for stage, stage_cost in cost["stages"].items()
    )
