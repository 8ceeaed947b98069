"""The page itself: content and figures through a template, everything escaped."""

import functools
from typing import Any

import jinja2

from vl_ltr_jax.report.page.content import Content

TEMPLATE = "report.html.jinja"
_WIDE_PANELS = ("Loss", "Batch accuracy in percent")


def render(content: Content) -> str:
    """The page as HTML that needs nothing else.

    Texts of others (names, sentences, values) appear as text, whatever they hold: the
    template escapes all of them, and the page's own policy forbids scripts.

    Args:
      content: from `gather.gather`.
    """
    from vl_ltr_jax.report.page import figures  # matplotlib takes a while

    return _template().render(
        content=content,
        motif=figures.motif(content.train_counts),
        tail=figures.long_tail(content.train_counts),
        scatter=content.per_class and figures.accuracy_by_count(content.per_class),
        curves=[
            {
                "stage": stage.stage,
                "panels": [
                    _panel(f"curve-{number}-{place}", title, lines)
                    for place, (title, lines) in enumerate(stage.panels.items())
                ],
            }
            for number, stage in enumerate(content.curves)
        ],
    )


def _panel(key: str, title: str, lines: Any) -> dict[str, Any]:
    from vl_ltr_jax.report.page import figures

    small = title not in _WIDE_PANELS
    drawn = figures.learning_curves(lines, key, title, small)
    return {"title": title, "small": small, "figure": drawn}


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
