"""From what a run leaves to what its page shows."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

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


@dataclasses.dataclass(frozen=True)
class Method:
    """What the run is an instance of.

    Attributes:
      title: of the system.
      head: of the results, the one that is the run's own (`predicted_by`).
      head_names: of heads, where they are not those of `titles.HEAD_NAMES`.
    """

    title: str
    head: str
    head_names: Mapping[str, str] = dataclasses.field(default_factory=dict)


def gather(
    *,
    results: Mapping[str, Any],
    configuration: Mapping[str, Any],
    method: Method,
    class_names: Sequence[str],
    train_counts: Int[np.ndarray, "C"],
    ranked: Mapping[str, Ranking] | None = None,
    curves: learning.Curves | None = None,
    selection: Selection | None = None,
    explained: Sequence[pictures.Explained] = (),
    made_on: str = "",
) -> Content:
    """Everything that the page shows; what a run has not is left out.

    Args:
      results: as in results.json.
      configuration: as in config.json.
      method: of the run.
      class_names: C names.
      train_counts: training images of each class.
      ranked: under `test` and `val`, what is known of each image.
      curves: under the name of each stage and scalar, steps and values.
      selection: the corpus and its anchors.
      explained: pictures, their classes, and explanations.
      made_on: the date, if the page is to have one.
    """
    ranked = {s: r for s, r in (ranked or {}).items() if len(r.labels)}
    split = next((s for s in SPLITS if _has_images(results, s, method)), SPLITS[0])
    shown = next((s for s in (split, *SPLITS) if s in ranked), None)
    backbone = str(configuration["model"]["backbone"])
    cost = results["cost"]
    several = len(class_names) > 1
    return Content(
        title=text.name(str(results["data"]["name"])),
        method=text.name(method.title),
        facts=_facts(results, configuration),
        split=SPLIT_NAMES[split],
        tiles=_tiles(results[split].get(method.head), train_counts),
        tables=tuple(_table(s, results[s], method, backbone, ranked) for s in SPLITS),
        notes=tuple(
            text.line(note, 3000)
            for note in (
                tables.anchor_notes(results["anchors"]) if "anchors" in results else ()
            )
        ),
        train_counts=train_counts,
        groups=_groups(train_counts, ranked),
        data=_data(results["data"]),
        per_class=per_class.per_class(
            SPLIT_NAMES[shown], ranked[shown], class_names, train_counts
        )
        if shown
        else None,
        confusion=per_class.confusion(ranked[shown], class_names, train_counts)
        if shown and several
        else (),
        curves=learning.stages(curves or {}),
        selection=_SELECTIONS[selection.name] if selection else "",
        anchors=sentences.examples(selection, class_names, train_counts)
        if selection
        else (),
        explained=pictures.explained(explained, class_names),
        explained_split=SPLIT_NAMES[shown or split],
        settings=_settings(configuration),
        costs=_costs(cost),
        duration=messages.format_duration(cost["seconds"]),
        images_seen=int(cost["images_seen"]),
        versions=_versions(results["versions"]),
        made_on=text.line(made_on, 60),
    )


def _has_images(results: Mapping[str, Any], split: str, method: Method) -> bool:
    head = results[split].get(method.head)
    return head is not None and head["top1"] is not None


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
    """The four numbers of the run's own head."""
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
    ranked: Mapping[str, Ranking],
) -> Table:
    names = {**titles.HEAD_NAMES, **method.head_names}
    in_order = tables.in_order(heads, method.head)
    rules, notes = {}, []
    for rule, rule_name in tables.RULE_NAMES.items():
        rows = {
            head: tables.row(text.name(names[head]), backbone, [heads[head]], rule)
            for head in in_order
        }
        cells = {
            head: tuple(tables.cell(getattr(row, column)) for column in _COLUMNS)
            for head, row in rows.items()
        }
        # The best by what is printed: a reader sees no further digit.
        highest = [
            max((float(c) for c in column if c != "-"), default=None)
            for column in zip(*cells.values(), strict=True)
        ]
        rules[rule_name] = tuple(
            Row(
                row.method,
                row.backbone,
                cells[head],
                tuple(
                    len(rows) > 1 and c != "-" and float(c) == best
                    for c, best in zip(cells[head], highest, strict=True)
                ),
                head == method.head,
            )
            for head, row in rows.items()
        )
    for head in in_order:
        notes.append(f"{names[head]}: {tables.beside(heads[head])}.")
    images = len(ranked[split].labels) if split in ranked else None
    return Table(
        SPLIT_NAMES[split], images, rules, tuple(text.line(n, 200) for n in notes)
    )


def _groups(
    train_counts: Int[np.ndarray, "C"], ranked: Mapping[str, Ranking]
) -> tuple[DataGroup, ...]:
    images = {
        SPLIT_NAMES[split]: np.bincount(
            ranked[split].labels, minlength=len(train_counts)
        )
        for split in SPLITS
        if split in ranked
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
    told = {
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
        told["Imbalance"] = f"{largest / smallest:,.0f} to 1"
    return told


def _settings(configuration: Mapping[str, Any]) -> dict[str, tuple[Setting, ...]]:
    """Every key, by section; keys without one come first, under no name."""
    sections: dict[str, list[Setting]] = {"": []}
    for section, given in configuration.items():
        inside = isinstance(given, Mapping)
        for name, value in (given if inside else {section: given}).items():
            key = f"{section}.{name}" if inside else section
            # A key that has gone since has no default, and differs from none.
            default = _DEFAULTS[key] if key in _DEFAULTS else value
            setting = Setting(
                key, _value(value), None if default == value else _value(default)
            )
            sections.setdefault(section if inside else "", []).append(setting)
    return {name: tuple(keys) for name, keys in sections.items() if keys}


def _value(value: Any) -> str:
    if value == "":
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    return text.line(str(value), _MAX_VALUE)


def _versions(versions: Mapping[str, Any]) -> dict[str, str]:
    """With as much of the commit as tells it from others."""
    told = {name: text.line(str(version), 120) for name, version in versions.items()}
    if "commit" in told:
        revision, plus, changes = told["commit"].partition("+")
        told["commit"] = revision[:12] + plus + changes
    return told


def _costs(cost: Mapping[str, Any]) -> tuple[StageCost, ...]:
    total = cost["seconds"] or 1
    return tuple(
        StageCost(
            text.line(stage, 60),
            int(one["images_seen"]),
            messages.format_duration(one["seconds"]),
            100 * one["seconds"] / total,
        )
        for stage, one in cost["stages"].items()
    )
