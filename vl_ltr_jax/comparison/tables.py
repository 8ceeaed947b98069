"""What a comparison found: the paper's table, every run as CSV, and the figure."""

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

# What damaged values of JSON and CSV lead to.
_DAMAGES = (ValueError, LookupError, TypeError, AttributeError, csv.Error)
_NOTES = (
    "Overall is the mean over images. Costs are those of a method run alone, also "
    "where a stage was shared: images drawn in training, as pictures or as features "
    "kept of them, and seconds of all stages but evaluation."
)


@dataclasses.dataclass(frozen=True)
class Line:
    """One method with one seed.

    Attributes:
      method: key of `systems.METHODS`.
      seed: of the run.
      test: the method's head on the test images, as in results.json.
      images_seen: draws of all training stages, shared ones included.
      seconds: of all stages but evaluation, shared ones included.
      per_class: accuracy in percent of each class; NaN where it has no test image.
    """

    method: str
    seed: int
    test: Mapping[str, Any]
    images_seen: int
    seconds: float
    per_class: np.ndarray


def line_of(method: str, seed: int, directory: epath.Path) -> Line:
    """The line of a finished run.

    Raises:
      ArtifactError: if its results cannot be read.
    """
    head = systems.METHODS[method].result
    try:
        results = strict_json.parse((directory / "results.json").read_bytes())
        tables.check(results["test"][head])
        costs = results["cost"]["stages"]
        seconds = [cost["seconds"] for n, cost in costs.items() if n != "evaluate"]
        table = (directory / "evaluate" / "per_class_test.csv").read_text()
        per_class = accuracy_per_class(table, head)
        if len(per_class) != results["data"]["num_classes"]:
            raise ValueError(f"per_class_test.csv has {len(per_class)} classes")
        if not 0 <= sum(seconds) < math.inf:
            raise ValueError(f"it took {sum(seconds)} seconds")
        images_seen = operator.index(results["cost"]["images_seen"])
        return Line(
            method, seed, results["test"][head], images_seen, sum(seconds), per_class
        )
    except (*_DAMAGES, OSError) as error:
        raise errors.lack(error) or ArtifactError(
            f"the results in {directory} cannot be read "
            f"({type(error).__name__}: {error}). {redo_advice(directory / 'evaluate')}"
        ) from error


def accuracy_per_class(text: str, head: str) -> np.ndarray:
    """Percentages [C] of a head in `per_class_SPLIT.csv`; NaN for no image.

    Raises:
      ValueError: if a class has more hits than images.
    """
    rows = [row for row in csv.DictReader(io.StringIO(text)) if row["head"] == head]
    hits, images = (np.array([int(r[k]) for r in rows]) for k in ("top1", "images"))
    if not ((hits >= 0) & (hits <= images) & (images < 2**31)).all():
        raise ValueError("per_class_test.csv has more hits than images")
    return np.where(images > 0, 100 * hits / np.maximum(images, 1), np.nan)


def by_method(lines: Iterable[Line]) -> dict[str, list[Line]]:
    """Lines of each method, in their order."""
    found: dict[str, list[Line]] = {}
    for line in lines:
        found.setdefault(line.method, []).append(line)
    return found


def markdown(lines: Sequence[Line], data_name: str, backbone: str) -> str:
    """The paper's table under both shot rules; methods with fewer seeds say so."""
    num_seeds = len({line.seed for line in lines})
    parts = []
    for rule, title in tables.RULE_NAMES.items():
        rows = []
        for name, mine in by_method(lines).items():
            fewer = f" ({len(mine)} of {num_seeds} seeds)"
            rows.append(
                tables.row(
                    systems.METHODS[name].title
                    + (fewer if len(mine) < num_seeds else ""),
                    backbone,
                    [line.test for line in mine],
                    rule,
                    tables.Cost(
                        [line.images_seen for line in mine],
                        [line.seconds for line in mine],
                    ),
                )
            )
        seeds = f"{num_seeds} seed{'' if num_seeds == 1 else 's'}"
        parts += [f"{data_name}, {title}, test images, {seeds}", tables.table(rows)]
    parts.append(_NOTES)
    return "\n\n".join(parts) + "\n"


def figure(lines: Sequence[Line], train_counts: np.ndarray) -> bytes:
    """The figure: one panel for the systems, one for VL-LTR's ablations."""
    curve = {
        name: np.mean([line.per_class for line in mine], axis=0)
        for name, mine in by_method(lines).items()
    }
    panels = {
        group: {
            systems.METHODS[name].title: curve[name]
            for name in GROUPS[group]
            if name in curve
        }
        for group in ("systems", "ablations")
    }
    emphasised = systems.METHODS["vl_ltr"].title
    others = {
        group: panel for group, panel in panels.items() if panel.keys() - {emphasised}
    }
    return class_curves.draw(others or panels, train_counts, emphasised)


def csv_of(lines: Iterable[Line], backbone: str) -> str:
    """A row for each method, seed and shot rule, with a header; see `COLUMNS`."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for line in lines:
        for rule in tables.RULE_NAMES:
            writer.writerow(
                {
                    "method": line.method,
                    "title": systems.METHODS[line.method].title,
                    "backbone": backbone,
                    "seed": line.seed,
                    "rule": rule,
                    "overall": line.test["top1"],
                    "class_mean": line.test["class_mean"],
                    **line.test["shots"][rule],
                    "images_seen": line.images_seen,
                    "seconds": round(line.seconds, 1),
                }
            )
    return file.getvalue()
