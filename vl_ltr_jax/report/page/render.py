"""The page as HTML: content and figures in a template that escapes all texts."""

import functools
from collections.abc import Sequence
from typing import Any

import jinja2

from vl_ltr_jax.report.page.content import Content, LearningCurve

TEMPLATE = "report.html.jinja"
_WIDE_PANELS = ("Loss", "Batch accuracy in percent")


def render(content: Content) -> str:
    """Returns the page as one HTML file without scripts.

    The template escapes user text, and the page's own policy forbids scripts.
    """
    from vl_ltr_jax.report.page import figures  # matplotlib takes a while

    def panel(key: str, title: str, curves: Sequence[LearningCurve]) -> dict[str, Any]:
        small = title not in _WIDE_PANELS
        figure = figures.learning_curves(curves, key, title, small)
        return {"title": title, "small": small, "figure": figure}

    return _template().render(
        content=content,
        motif=figures.motif(content.train_counts),
        tail=figures.long_tail(content.train_counts),
        scatter=content.per_class and figures.accuracy_by_count(content.per_class),
        curves=[
            {
                "stage": stage,
                "panels": [
                    panel(f"curve-{number}-{place}", title, curves)
                    for place, (title, curves) in enumerate(panels.items())
                ],
            }
            for number, (stage, panels) in enumerate(content.curves.items())
        ],
    )


@functools.lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vl_ltr_jax", "assets/page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["decimal"] = lambda number, digits=1: f"{number:.{digits}f}"
    environment.filters["thousands"] = lambda number: f"{number:,}"
    return environment.get_template(TEMPLATE)
