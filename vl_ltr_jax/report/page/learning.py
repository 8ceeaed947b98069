"""Learning curves, sorted into figures and thinned."""

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from vl_ltr_jax.report.page import text
from vl_ltr_jax.report.page.content import LearningCurve, StageCurves

# Under the name of each stage and scalar: steps and values.
Curves: TypeAlias = Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]]
# Title of a figure, and how the names of its scalars begin.
PANELS = {
    "Loss": "loss/",
    "Batch accuracy in percent": "accuracy",
    "Learning rate": "learning_rate",
    "Images per second": "throughput/images_per_second",
}
MAX_POINTS = 400
_MAX_CURVES = 8  # of a figure


def stages(curves: Curves) -> tuple[StageCurves, ...]:
    """The figures of every stage that has any."""
    found = []
    for stage, scalars in curves.items():
        panels: dict[str, list[LearningCurve]] = {}
        for scalar in sorted(scalars, key=lambda name: (name != "loss/total", name)):
            for title, prefix in PANELS.items():
                if scalar.startswith(prefix):
                    curve = thinned(_short(scalar), *scalars[scalar])
                    if len(curve.steps):
                        panels.setdefault(title, []).append(curve)
        if panels:
            in_order = {
                title: tuple(panels[title][:_MAX_CURVES])
                for title in PANELS
                if title in panels
            }
            found.append(StageCurves(text.line(stage, 60), in_order))
    return tuple(found)


def thinned(name: str, steps: np.ndarray, values: np.ndarray) -> LearningCurve:
    """A curve of at most `MAX_POINTS` points, the first and the last among them.

    Args:
      name: of the scalar.
      steps: rising.
      values: of the scalar; those that are no numbers are left out.
    """
    steps, values = np.asarray(steps, np.float64), np.asarray(values, np.float64)
    finite = np.isfinite(values)
    steps, values = steps[finite], values[finite]
    if len(steps) > MAX_POINTS:
        kept = np.linspace(0, len(steps) - 1, MAX_POINTS).round().astype(int)
        steps, values = steps[kept], values[kept]
    return LearningCurve(name, steps, values)


def _short(scalar: str) -> str:
    """`loss/contrastive_image` is `contrastive image`."""
    _, _, rest = scalar.partition("/")
    return text.line((rest or scalar).replace("_", " "), 40)
