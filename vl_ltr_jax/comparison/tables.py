"""Results of a comparison: the paper's table, every run as CSV, and the figure."""

import csv
import dataclasses
import io
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from vl_ltr_jax import systems
from vl_ltr_jax.report import class_curves, tables
from vl_ltr_jax.runtime import errors
from vl_ltr_jax.storage import strict_json
from vl_ltr_jax.storage.artifact import ArtifactError, redo_advice
from vl_ltr_jax.systems import ablations

GROUPS = {
    "all": tuple(systems.METHODS),
    "systems": tuple(systems.RECIPES),
    "ablations": ("vl_ltr", *ablations.ABLATIONS),
}
COLUMNS = (
    *("method", "title", "backbone", "seed", "rule"),
    *("overall", "class_mean", "many", "medium", "few", "images_seen", "seconds"),
)
_NOTES = (
    "Overall is the mean over images. Costs are those of a method alone, even if a "
    "stage was shared. Images seen: drawn in training, also as cached features. "
    "Seconds: all stages except evaluation."
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One method with one seed.

    Attributes:
      method: key of `systems.METHODS`.
      test: results of the method's head on the test images, as in results.json.
      images_seen: draws of all training stages, shared ones included.
      seconds: time of all stages except evaluation, shared ones included.
      per_class: accuracy in percent of each class; NaN if it has no test image.
    """

    method: str
    seed: int
    test: Mapping[str, Any]
    images_seen: int
    seconds: float
    per_class: np.ndarray


def row_of(method: str, seed: int, directory: epath.Path) -> Row:
    """Returns the row of a finished run.

    Raises:
      ArtifactError: its results are damaged.
    """
    head = systems.METHODS[method].result
    try:
        results = strict_json.parse((directory / "results.json").read_bytes())
        tables.check(results["test"][head])
        costs = results["cost"]["stages"]
        seconds = sum(costs[name]["seconds"] for name in costs if name != "evaluate")
        text = (directory / "evaluate" / "per_class_test.csv").read_text()
        per_class = accuracy_per_class(text, head)
        if len(per_class) != results["data"]["num_classes"]:
            raise ValueError(f"per_class_test.csv has {len(per_class)} classes")
        if not 0 <= seconds < math.inf:
            raise ValueError(f"it took {seconds} seconds")
        images_seen = operator.index(results["cost"]["images_seen"])
        test = results["test"][head]
        return Row(method, seed, test, images_seen, seconds, per_class)
    except Exception as error:
        raise errors.lack(error) or ArtifactError(
            f"{directory}: the results cannot be read "
            f"({type(error).__name__}: {error}). {redo_advice(directory / 'evaluate')}"
        ) from error


def accuracy_per_class(text: str, head: str) -> np.ndarray:
    """Returns percentages [C] of a head in `per_class_SPLIT.csv`; NaN for no image.

    Raises:
      ValueError: a class has more hits than images.
    """
    rows = [row for row in csv.DictReader(io.StringIO(text)) if row["head"] == head]
    hits, images = (np.array([int(r[k]) for r in rows]) for k in ("top1", "images"))
    if not ((hits >= 0) & (hits <= images) & (images < 2**31)).all():
        raise ValueError("per_class_test.csv has more hits than images")
    return np.where(images > 0, 100 * hits / np.maximum(images, 1), np.nan)


def by_method(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Returns the rows of each method, in their order."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.method, []).append(row)
    return groups


def markdown(rows: Sequence[Row], data_name: str, backbone: str) -> str:
    """Returns the paper's table under both shot rules; missing seeds are noted."""
    num_seeds = len({row.seed for row in rows})
    seeds = f"{num_seeds} seed{'' if num_seeds == 1 else 's'}"
    parts = []
    for rule, title in tables.RULE_NAMES.items():
        lines = []
        for name, group in by_method(rows).items():
            fewer = f" ({len(group)} of {num_seeds} seeds)"
            lines.append(
                tables.row(
                    systems.METHODS[name].title + fewer * (len(group) < num_seeds),
                    backbone,
                    [row.test for row in group],
                    rule,
                    tables.Cost(
                        [row.images_seen for row in group],
                        [row.seconds for row in group],
                    ),
                )
            )
        parts += [f"{data_name}, {title}, test images, {seeds}", tables.table(lines)]
    parts.append(_NOTES)
    return "\n\n".join(parts) + "\n"


def figure(rows: Sequence[Row], train_counts: np.ndarray) -> bytes:
    """Returns the figure: one panel for the systems, one for VL-LTR's ablations."""
    curves = {
        name: np.mean([row.per_class for row in group], axis=0)
        for name, group in by_method(rows).items()
    }
    panels = {
        panel: {
            systems.METHODS[name].title: curves[name]
            for name in GROUPS[panel]
            if name in curves
        }
        for panel in ("systems", "ablations")
    }
    emphasised = systems.METHODS["vl_ltr"].title
    compared = {
        name: panels[name] for name in panels if panels[name].keys() - {emphasised}
    }
    return class_curves.draw(compared or panels, train_counts, emphasised)


def csv_of(rows: Iterable[Row], backbone: str) -> str:
    """Returns a header, and a line for each method, seed and shot rule."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        for rule in tables.RULE_NAMES:
            title, shots = systems.METHODS[row.method].title, row.test["shots"][rule]
            writer.writerow(
                [
                    *(row.method, title, backbone, row.seed, rule),
                    *(row.test["top1"], row.test["class_mean"]),
                    *(shots[name] for name in ("many", "medium", "few")),
                    *(row.images_seen, round(row.seconds, 1)),
                ]
            )
    return file.getvalue()
