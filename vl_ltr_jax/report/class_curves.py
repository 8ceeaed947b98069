"""A figure of accuracy against class frequency, with a line for each method."""

import io
import itertools
from collections.abc import Mapping

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure

GROUPS = 10  # of about as many classes each, from rare to frequent
_STYLES = ("-", "--", "-.", ":")


def group_classes(
    train_counts: Int[np.ndarray, "C"], groups: int = GROUPS
) -> list[Int[np.ndarray, "K"]]:
    """Returns classes by rising training count, in groups of equal size."""
    order = np.argsort(train_counts, kind="stable")
    return np.array_split(order, min(groups, len(order)))


def draw(
    panels: Mapping[str, Mapping[str, Float[np.ndarray, "C"]]],
    train_counts: Int[np.ndarray, "C"],
    emphasised: str,
) -> bytes:
    """Returns the figure as SVG.

    Args:
      panels: panel name to method title to accuracy of each class in percent; NaN for
        a class without test images.
      train_counts: training images of each class.
      emphasised: title of the method with the thick line.
    """
    groups = group_classes(train_counts)
    counts = [float(train_counts[group].mean()) for group in groups]
    figure = Figure(figsize=(9, 5.5 * len(panels)), layout="constrained")
    colours = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]
    all_axes = figure.subplots(len(panels), squeeze=False)[:, 0]
    for axes, (name, lines) in zip(all_axes, panels.items(), strict=True):
        looks = itertools.cycle(itertools.product(_STYLES, colours))
        for title, accuracies in lines.items():
            thick = title == emphasised
            style, colour = ("-", "black") if thick else next(looks)
            axes.plot(
                counts,
                [_mean(accuracies[group]) for group in groups],
                linestyle=style,
                color=colour,
                linewidth=3 if thick else 1.2,
                marker="o",
                markersize=6 if thick else 3,
                label=title,
                zorder=3 if thick else 2,
            )
        axes.set_xscale("symlog", linthresh=1)  # a class may have no image
        ticks = sorted({round(count) for count in counts})
        axes.set_xticks(ticks, labels=[str(tick) for tick in ticks], minor=False)
        axes.minorticks_off()
        axes.set_title(name)
        axes.set_xlabel(f"training images of a class, mean of 1 in {len(groups)}")
        axes.set_ylabel("test accuracy in percent")
        axes.grid(alpha=0.3)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small")
    file = io.BytesIO()
    # The same lines give the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": "vl_ltr_jax"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def _mean(values: Float[np.ndarray, "K"]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
