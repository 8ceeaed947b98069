"""Figures of matplotlib as SVG that stands inside a page and takes its colours.

Colours are drawn as stand-ins, which become variables of the page's style sheet, so
that one figure serves a dark and a light page. Text stays text, in the page's font.
"""

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

# Stand-ins for variables of the style sheet.
COLOURS = {
    "ink": "#010a01",
    "muted": "#010a02",
    "line": "#010a03",
    "accent": "#010a04",
    "many": "#010a05",
    "medium": "#010a06",
    "few": "#010a07",
    "series-1": "#010a08",
    "series-2": "#010a09",
    "series-3": "#010a0a",
    "series-4": "#010a0b",
}
SERIES = tuple(name for name in COLOURS if name.startswith("series"))
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
    """The look of all figures, to be in force while one is made and drawn."""
    with matplotlib.rc_context(_STYLE):
        yield


def inline(
    figure: Figure, key: str, description: str, titles: Sequence[str] = ()
) -> str:
    """A figure as an `svg` element for an HTML page.

    Args:
      figure: made and drawn under :func:`style`.
      key: distinguishes its ids from those of the other figures of the page.
      description: what it shows, for those who do not see it.
      titles: of the marks of the artist with the gid `points`, shown where a mouse
        rests.

    Raises:
      ValueError: if there are other than as many marks as titles.
    """
    figure.patch.set_visible(False)
    file = io.BytesIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(file, format="svg", metadata=nothing)
    root = ElementTree.fromstring(file.getvalue())
    _plain(root)
    if titles:
        points = next(g for g in root.iter("g") if g.get("id") == "points")
        for mark, text in zip(_marks(points), titles, strict=True):
            ElementTree.SubElement(mark, "title").text = text
    _set_ids(root, key)
    size = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib |= {"viewBox": size, "role": "img", "aria-label": description}
    return ElementTree.tostring(root, encoding="unicode")


def _plain(root: ElementTree.Element) -> None:
    """Takes out what HTML does not need: name spaces, metadata, style sheet, fonts."""
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


def _marks(group: ElementTree.Element) -> Iterator[ElementTree.Element]:
    """What is drawn in a group, its definitions left out."""
    for child in group:
        if child.tag in ("use", "path"):
            yield child
        elif child.tag == "g":
            yield from _marks(child)


def _set_ids(root: ElementTree.Element, key: str) -> None:
    """Makes ids unique in the page, and leaves out those that nothing refers to."""
    used = {
        found[1]
        for element in root.iter()
        for name, value in element.attrib.items()
        if name in ("href", "clip-path") and (found := _REFERENCE.search(value))
    }
    for element in root.iter():
        if (own := element.attrib.pop("id", None)) in used:
            element.set("id", f"{key}-{own}")
        for name in element.attrib.keys() & {"href", "clip-path"}:
            value = element.attrib[name]
            element.set(name, _REFERENCE.sub(rf"#{key}-\1", value))
