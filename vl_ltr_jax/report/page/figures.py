"""Figures of a report, of equal width, so that their text has one size."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vl_ltr_jax.method import shots
from vl_ltr_jax.report import class_curves
from vl_ltr_jax.report.page import svg, text
from vl_ltr_jax.report.page.content import GROUPS, LearningCurve, PerClass
from vl_ltr_jax.report.page.per_class import RULE, group_names
from vl_ltr_jax.report.page.svg import COLOURS, SERIES

MAX_POINTS = 2000  # with tooltips
_WIDE, _SMALL = (4.8, 3.1), (2.9, 1.5)  # inches; at 72 to an inch, the page's units
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 1.5, 1.5, 1.5)))


class Key(NamedTuple):
    """An entry of a legend; `dashes` as in SVG."""

    label: str
    colour: str
    dashes: str = ""


class Drawn(NamedTuple):
    """A figure as SVG, with its legend."""

    svg: str
    keys: tuple[Key, ...] = ()


def accuracy_by_count(per_class: PerClass) -> Drawn:
    """Draws accuracy of every class against its training images, and the mean."""
    labels = np.flatnonzero(~np.isnan(per_class.percent))
    counts, percent = per_class.train_counts[labels], per_class.percent[labels]
    groups = group_names(counts)
    with svg.style():
        figure = Figure(figsize=_WIDE, layout="constrained")
        axes = figure.subplots()
        titles: list[str] = []
        if len(labels) > MAX_POINTS:
            for group in GROUPS:  # without tooltips: 50 bytes a point
                mine = np.array(groups) == group
                colour = COLOURS[group]
                axes.plot(counts[mine], percent[mine], ".", color=colour, alpha=0.3)
        else:
            axes.scatter(
                counts,
                percent,
                s=26,
                c=[COLOURS[group] for group in groups],
                alpha=0.65,
                linewidths=0,
                gid="points",
            )
            titles = [
                f"{per_class.names[label]}: {percent:.1f} %, "
                f"{per_class.train_counts[label]:,} training images"
                for label, percent in zip(labels, percent, strict=True)
            ]
        parts = class_curves.group_classes(counts)
        if len(parts) > 1:
            axes.plot(
                [counts[part].mean() for part in parts],
                [percent[part].mean() for part in parts],
                color=COLOURS["ink"],
                linewidth=2,
                solid_capstyle="round",
            )
        _count_axis(axes, counts)
        axes.set_ylim(-4, 104)
        axes.set_yticks(range(0, 101, 20))
        axes.set_xlabel("training images of the class, log scale")
        axes.set_ylabel("accuracy in percent")
        drawn = svg.inline(
            figure,
            "accuracy",
            f"Accuracy of {text.of_classes(len(labels))} against their training images",
            titles,
        )
    keys = [Key(group, group) for group in GROUPS if group in groups]
    if len(parts) > 1:
        keys.append(Key(f"mean, {len(parts)} groups of equal size", "ink", "line"))
    return Drawn(drawn, tuple(keys))


def motif(
    train_counts: Int[np.ndarray, "C"], most: int = 60
) -> list[tuple[str, float]]:
    """Returns group and height, up to 1, of each bar of the header's ornament.

    Args:
      train_counts: training images of each class.
      most: number of bars; each is a class, both ends included.
    """
    counts = np.sort(train_counts)[::-1]
    places = np.unique(np.linspace(0, len(counts) - 1, most).round().astype(int))
    heights = np.log1p(counts[places]) / max(np.log1p(counts[0]), 1.0)
    return list(zip(group_names(counts[places]), heights.tolist(), strict=True))


def long_tail(train_counts: Int[np.ndarray, "C"]) -> Drawn:
    """Draws training images of every class, in falling order."""
    counts = np.sort(train_counts)[::-1]
    ranks = np.arange(1, len(counts) + 1)
    groups = np.array(group_names(counts), object)
    with svg.style():
        figure = Figure(figsize=_WIDE, layout="constrained")
        axes = figure.subplots()
        for group in GROUPS:
            mine = groups == group
            if not mine.any():
                continue
            # The outline of bars, in one path of at most 300 steps.
            places = np.flatnonzero(mine)
            if (size := len(places)) > 300:
                places = places[np.linspace(0, size, 300, endpoint=False).astype(int)]
            edges = np.append(ranks[places], ranks[mine][-1] + 1) - 0.5
            axes.stairs(
                counts[places], edges, fill=True, color=COLOURS[group], alpha=0.85
            )
        low, high = shots.SHOT_RULES[RULE]["medium"]
        borders = [b for b in (high, low) if b and counts.min() < b < counts.max()]
        for border in borders:
            axes.axhline(
                border, color=COLOURS["muted"], linewidth=0.8, linestyle=(0, (3, 3))
            )
        axes.set_yscale("symlog", linthresh=1)
        _plain_ticks(axes, counts, "y")
        axes.set_ylim(0, max(1, counts.max()) * 1.25)
        axes.set_xlim(0.5, len(counts) + 0.5)
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("classes, by training images")
        axes.set_ylabel("training images, log scale")
        description = (
            f"Training images of {text.of_classes(len(counts))}, from "
            f"{counts[0]:,} to {counts[-1]:,}"
        )
        drawn = svg.inline(figure, "tail", description)
    keys = [Key(group, group) for group in GROUPS if (groups == group).any()]
    if borders:
        counts_text = " and ".join(map(str, borders))
        keys.append(Key(f"{counts_text} images", "muted", "3 3"))
    return Drawn(drawn, tuple(keys))


def learning_curves(
    lines: Sequence[LearningCurve], key: str, title: str, small: bool
) -> Drawn:
    """Draws scalars over steps.

    Args:
      lines: one scalar each; `total` is thick.
      key: see `svg.inline`.
      title: name of the values.
      small: True for a small figure.
    """
    keys = []
    with svg.style():
        figure = Figure(figsize=_SMALL if small else _WIDE, layout="constrained")
        axes = figure.subplots()
        for line, (colour, dashes) in zip(lines, _looks(lines), strict=True):
            total = line.name == "total" or len(lines) == 1
            (drawn,) = axes.plot(
                line.steps,
                line.values,
                color=COLOURS[colour],
                linestyle=dashes,
                linewidth=2 if total else 1.4,
                marker="o" if len(line.steps) == 1 else "",
                zorder=3 if total else 2,
            )
            drawn.set_solid_capstyle("round")
            last = _number(float(line.values[-1]))
            alone = small and len(lines) == 1  # the title is its name
            label = f"{last} at the end" if alone else f"{line.name} {last}"
            on_off = "" if dashes == "-" else " ".join(map(str, dashes[1]))
            keys.append(Key(label, colour, on_off or "line"))
        axes.set_xlabel("step")
        if small:
            axes.locator_params(nbins=4)
        axes.margins(x=0.01)
        ends = ", ".join(key.label.removesuffix(" at the end") for key in keys)
        description = f"{title}: {ends} at the end"
        return Drawn(svg.inline(figure, key, description), tuple(keys))


def _number(value: float) -> str:
    if 1000 <= abs(value) < 1e7:
        return f"{value:,.0f}"
    return f"{value:#.3g}".removesuffix(".")


def _looks(lines: Sequence[LearningCurve]) -> list[tuple[str, Any]]:
    """Returns colours and dashes; terms with the same first word share a colour."""
    if len(lines) == 1:
        return [("accent", "-")]
    words = [line.name.split(" ")[0] for line in lines]
    families = [word for word in dict.fromkeys(words) if word != "total"]
    looks: list[tuple[str, Any]] = []
    for place, word in enumerate(words):
        if word == "total":
            looks.append(("ink", "-"))
            continue
        colour = SERIES[families.index(word) % len(SERIES)]
        nth = words[:place].count(word) + families.index(word) // len(SERIES)
        looks.append((colour, _DASHES[nth % len(_DASHES)]))
    return looks


def _count_axis(axes: Axes, counts: Int[np.ndarray, "K"]) -> None:
    """Makes a logarithmic axis that includes zero images."""
    axes.set_xscale("symlog", linthresh=1)
    _plain_ticks(axes, counts, "x")
    low, high = int(counts.min()), int(counts.max())
    axes.set_xlim(low / 1.25 if low else -0.3, max(high, 1) * 1.25)


def _plain_ticks(axes: Axes, counts: Int[np.ndarray, "K"], axis: str) -> None:
    """Labels 1, 3, 10, 30 ... within the counts, as plain numbers."""
    low, high = int(counts.min()), max(int(counts.max()), 1)
    marks = [n * 10**power for power in range(8) for n in (1, 3)]
    inside = [mark for mark in marks if low <= mark <= high] or [high]
    ticks = inside if low else [0, *inside]
    labels = [f"{tick:,}" for tick in ticks]
    (axes.set_xticks if axis == "x" else axes.set_yticks)(ticks, labels)
    axes.minorticks_off()
