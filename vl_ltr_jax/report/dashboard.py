"""The TensorBoard page of an evaluated run: results, margins, mistakes, anchors.

`accuracy/top1` and so on are the run's own head on the test images. They alone are the
metrics of the HPARAMS tab, where each run is a row named by its workdir. Names of other
accuracies begin with split and head. `top1` is over images, `class_mean` over classes.
`accuracy/many` follows the standard rule, `accuracy_vl_ltr/many` VL-LTR's.
"""

import contextlib
import html
import os
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image, ImageDraw

from vl_ltr_jax.config import settings
from vl_ltr_jax.data.images.decode import ImageReadError
from vl_ltr_jax.data.sources.dataset import LongTailedData
from vl_ltr_jax.evaluate.accuracy import Ranking
from vl_ltr_jax.logs import messages
from vl_ltr_jax.logs.event_files import Logs
from vl_ltr_jax.method import shots
from vl_ltr_jax.report.contact_sheet import (
    INK,
    LINE_HEIGHT,
    PAPER,
    caption_font,
    letters_in,
)

RULE = "standard"
# Fixed numbers, so that the page does not grow with the data set.
MISTAKES_PER_GROUP, CLASSES_PER_GROUP, SENTENCES_PER_CLASS = 8, 20, 8
_SIDE, _LINES_EACH = 224, 2

Transform = Callable[[Image.Image], UInt8[np.ndarray, "H W 3"]]


def write(
    logs: Logs,
    workdir: str | os.PathLike[str],
    config: settings.Config,
    data: LongTailedData,
    summary: Mapping[str, Any],
    rankings: Mapping[str, Ranking],
    transform: Transform,
    anchors: Sequence[Sequence[str]] = (),
) -> None:
    """Writes everything, in process 0.

    Args:
      logs: event file of the evaluation.
      workdir: names the run.
      config: hyper-parameters of the run.
      data: names, counts and test pictures.
      summary: content of results.json.
      rankings: rankings of `val` and `test`.
      transform: from a picture to evaluation pixels.
      anchors: sentences of each class, best first; empty without anchors.
    """
    own = _accuracies(summary["test"][summary["predicted_by"]])
    logs.result(os.fspath(workdir), settings.flatten(config), own)
    for split in ("test", "val"):
        for head, result in summary[split].items():
            values = _accuracies(result) | _accuracies_by_vl_ltr(result)
            logs.scalars(0, {f"{split}/{head}/{n}": v for n, v in values.items()})
    groups = shots.shot_groups(data.train_counts, RULE)
    for split, ranking in rankings.items():
        for group, members in groups.items():
            margins = np.asarray(ranking.margins[members[ranking.labels]])
            if len(margins):
                logs.histogram(0, f"{split}/margin/{group}", margins)
    for group, members in groups.items():
        if not members.any():
            continue
        _write_mistakes(logs, group, members, rankings["test"], data, transform)
        if len(anchors):
            text = anchor_text(members, anchors, data.class_names, data.train_counts)
            logs.text(0, f"anchors/{group}", text)


def _accuracies(result: Mapping[str, Any]) -> dict[str, float]:
    """Returns the accuracies of one head; not of groups without images."""
    values = {n: result[n] for n in ("top1", "class_mean")} | result["shots"][RULE]
    return {f"accuracy/{n}": value for n, value in values.items() if value is not None}


def _accuracies_by_vl_ltr(result: Mapping[str, Any]) -> dict[str, float]:
    groups = result["shots"]["vl_ltr"]
    return {f"accuracy_vl_ltr/{n}": v for n, v in groups.items() if v is not None}


def _write_mistakes(
    logs: Logs,
    group: str,
    members: Bool[np.ndarray, " C"],
    ranking: Ranking,
    data: LongTailedData,
    transform: Transform,
) -> None:
    """Writes the misclassified test pictures of a group with the lowest margins.

    A table holds the names in any script, and the image files.
    """
    in_group = members[ranking.labels]
    mistakes = np.flatnonzero(in_group & (ranking.classes[:, 0] != ranking.labels))
    order = np.argsort(ranking.margins[mistakes], kind="stable")
    rows, pictures = [], []
    for number, index in enumerate(mistakes[order[:MISTAKES_PER_GROUP]].tolist(), 1):
        true = data.class_names[ranking.labels[index]]
        predicted = data.class_names[ranking.classes[index, 0]]
        share = f"{ranking.probabilities[index, 0]:.0%}"
        cells = (str(number), true, predicted, share, data.test.describe(index))
        rows.append(f"| {' | '.join(map(_escaped, cells))} |")
        with contextlib.suppress(ImageReadError):  # deleted since the evaluation
            pixels = transform(data.test.read(index))
            captions = (f"{number}. {true}", f"taken for {predicted}, {share}")
            pictures.append(captioned(pixels, captions))
    if pictures:
        logs.images(0, f"misclassified/{group}", np.stack(pictures))
    text = f"{len(mistakes):,} of {in_group.sum():,} test images are misclassified"
    if rows:
        heading = (
            f"{text}; the {len(rows)} of the lowest margin:",
            "",
            "| | true | predicted | probability | image |",
            "|---|---|---|---|---|",
        )
        text = "\n".join([*heading, *rows])
    logs.text(0, f"misclassified/{group}/names", text)


def captioned(
    pixels: UInt8[np.ndarray, "H W 3"], captions: Sequence[str]
) -> UInt8[np.ndarray, "height width 3"]:
    """Returns a picture of constant size with captions of up to two lines each.

    Letters that the font lacks (those of East Asia) are drawn as boxes.
    """
    height = _SIDE + len(captions) * _LINES_EACH * LINE_HEIGHT
    canvas = Image.new("RGB", (_SIDE, height), PAPER)
    canvas.paste(Image.fromarray(pixels).resize((_SIDE, _SIDE)))
    draw, top = ImageDraw.Draw(canvas), _SIDE
    for caption in captions:
        text = _printable(caption)
        for words in textwrap.wrap(text, letters_in(_SIDE), max_lines=_LINES_EACH):
            draw.text((0, top), words, INK, caption_font())
            top += LINE_HEIGHT
    return np.asarray(canvas)


def anchor_text(
    members: Bool[np.ndarray, " C"],
    anchors: Sequence[Sequence[str]],
    class_names: Sequence[str],
    train_counts: Int[np.ndarray, " C"],
) -> str:
    """Returns anchor sentences of a group's classes as Markdown, the best first."""
    classes = np.flatnonzero(members)
    order = classes[np.argsort(-train_counts[classes], kind="stable")]
    places = np.linspace(0, len(order) - 1, min(len(order), CLASSES_PER_GROUP))
    chosen = order[np.unique(places.round().astype(int))]  # both ends included
    parts = [
        f"{len(chosen)} of {len(classes):,} classes, at most {SENTENCES_PER_CLASS} "
        "sentences of each; `anchors/sentences.json` in the workdir has all."
    ]
    for label in chosen.tolist():
        name, count = _escaped(class_names[label]), int(train_counts[label])
        parts.append(
            f"### {name} ({messages.counted(count, 'training image')}, "
            f"{messages.counted(len(anchors[label]), 'anchor')})"
        )
        sentences = map(_escaped, anchors[label][:SENTENCES_PER_CLASS])
        lines = [f"{place}. {text}" for place, text in enumerate(sentences, 1)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _escaped(text: str) -> str:
    """Returns user text as one line that Markdown and HTML leave unchanged."""
    plain = html.escape(" ".join(_printable(text).split()), quote=False)
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|])", r"\\\1", plain)
