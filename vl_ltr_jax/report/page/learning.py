"""Learning curves, sorted into figures and thinned."""

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from vl_ltr_jax.report.page import content, text
from vl_ltr_jax.report.page.content import LearningCurve

# Steps and values by stage and scalar.
Curves: TypeAlias = Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]]
# Title of a figure to the prefix of its scalars.
PANELS = {
    "Loss": "loss/",
    "Batch accuracy in percent": "accuracy",
    "Learning rate": "learning_rate",
    "Images per second": "throughput/images_per_second",
}
MAX_POINTS = 400
_MAX_CURVES = 8  # in a figure


def stages(curves: Curves) -> content.Curves:
    """Returns the figures of every stage that has scalars."""
    result = {}
    for stage, scalars in curves.items():
        panels: dict[str, list[LearningCurve]] = {}
        for scalar in sorted(scalars, key=lambda name: (name != "loss/total", name)):
            for title, prefix in PANELS.items():
                if scalar.startswith(prefix):
                    curve = thinned(_short(scalar), *scalars[scalar])
                    if len(curve.steps):
                        panels.setdefault(title, []).append(curve)
        if panels:
            result[text.line(stage, 60)] = {
                title: tuple(panels[title][:_MAX_CURVES])
                for title in PANELS
                if title in panels
            }
    return result


def thinned(name: str, steps: np.ndarray, values: np.ndarray) -> LearningCurve:
    """Returns a curve of at most `MAX_POINTS` points, both ends included.

    Values that are not finite are dropped.
    """
    steps, values = np.asarray(steps, np.float64), np.asarray(values, np.float64)
    finite = np.isfinite(values)
    steps, values = steps[finite], values[finite]
    if len(steps) > MAX_POINTS:
        places = np.linspace(0, len(steps) - 1, MAX_POINTS).round().astype(int)
        steps, values = steps[places], values[places]
    return LearningCurve(name, steps, values)


def _short(scalar: str) -> str:
    """Returns `contrastive image` for `loss/contrastive_image`."""
    name = scalar.partition("/")[2] or scalar
    return text.line(name.replace("_", " "), 40)
