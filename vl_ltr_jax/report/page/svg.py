"""Figures of matplotlib as SVG inside a page, in the page's colours and font.

Placeholder colours become variables of the page's style sheet. So one figure serves a
dark and a light page.
"""

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

# Placeholders for variables of the style sheet.
SERIES = ("series-1", "series-2", "series-3", "series-4")
_NAMES = ("ink", "muted", "line", "accent", "many", "medium", "few", *SERIES)
COLOURS = {name: f"#010a{number:02x}" for number, name in enumerate(_NAMES, 1)}
_VARIABLES = {colour: f"var(--{name})" for name, colour in COLOURS.items()}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "vl_ltr_jax",  # the same content gives the same bytes
    "text.usetex": False,
    "text.parse_math": False,  # a name may hold a dollar
    "axes.unicode_minus": False,
    "font.size": 9.5,
    "axes.labelsize": 9.5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["muted"],
    "xtick.color": COLOURS["line"],
    "ytick.color": COLOURS["line"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["muted"],
    "axes.facecolor": "none",
    "axes.edgecolor": COLOURS["line"],
    "grid.color": COLOURS["line"],
    "grid.alpha": 0.6,
    "grid.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_NAMESPACE = re.compile(r"^\{.*\}")
_REFERENCE = re.compile(r"#([\w.-]+)")
_FONT_FAMILY = re.compile(r"\s*font-family:[^;]*(;|$)")


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Applies the style of all figures while one is made and drawn."""
    with matplotlib.rc_context(_STYLE):
        yield


def inline(
    figure: Figure, key: str, description: str, titles: Sequence[str] = ()
) -> str:
    """Returns a figure as an `svg` element for an HTML page.

    Args:
      figure: made and drawn under :func:`style`.
      key: prefix of its ids, unique in the page.
      description: text for screen readers.
      titles: tooltips, one for each mark of the artist with the gid `points`.
    """
    figure.patch.set_visible(False)
    file = io.BytesIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(file, format="svg", metadata=nothing)
    root = ElementTree.fromstring(file.getvalue())
    _simplify(root)
    if titles:
        points = next(g for g in root.iter("g") if g.get("id") == "points")
        for mark, text in zip(points.iter("use"), titles, strict=True):
            ElementTree.SubElement(mark, "title").text = text
    _set_ids(root, key)
    size = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib |= {"viewBox": size, "role": "img", "aria-label": description}
    return ElementTree.tostring(root, encoding="unicode")


def _simplify(root: ElementTree.Element) -> None:
    """Removes name spaces, metadata, style sheet and fonts, which HTML needs not."""
    for parent in root.iter():
        parent.tag = _NAMESPACE.sub("", parent.tag)
        parent.tail = None
        if parent.tag != "text":
            parent.text = None
        for child in list(parent):
            if _NAMESPACE.sub("", child.tag) in ("metadata", "style"):
                parent.remove(child)
        for name in list(parent.attrib):
            value = parent.attrib.pop(name)
            if name == "style":
                value = _FONT_FAMILY.sub("", value).strip().removesuffix(";")
                for colour, variable in _VARIABLES.items():
                    value = value.replace(colour, variable)
            if name == "d":
                value = " ".join(value.split())
            if not (name == "transform" and value.startswith("rotate(-0 ")):
                parent.attrib[_NAMESPACE.sub("", name)] = value


def _set_ids(root: ElementTree.Element, key: str) -> None:
    """Makes ids unique in the page, and drops ids without a reference."""
    used = {
        match[1]
        for element in root.iter()
        for name, value in element.attrib.items()
        if name in ("href", "clip-path") and (match := _REFERENCE.search(value))
    }
    for element in root.iter():
        if (own := element.attrib.pop("id", None)) in used:
            element.set("id", f"{key}-{own}")
        for name in element.attrib.keys() & {"href", "clip-path"}:
            value = element.attrib[name]
            element.set(name, _REFERENCE.sub(rf"#{key}-\1", value))
