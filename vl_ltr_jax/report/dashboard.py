"""What an evaluated run shows in TensorBoard: results, margins, mistakes, anchors.

Accuracies of the run's own head on the test images are `accuracy/top1` and so on. They
alone are the metrics of the HPARAMS tab, where a run is one row under the name of its
workdir. Those of every head and split have the split and the head before that name.
`top1` is over images, `class_mean` over classes. Many, medium and few are those of the
standard rule; `accuracy_vl_ltr/many` and so on are those of VL-LTR's. Nothing grows
with the data set: of each group a few mistakes and some classes are shown, and the text
says how many there are.
"""

import contextlib
import functools
import html
import itertools
import os
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from vl_ltr_jax.config import settings
from vl_ltr_jax.data.images.decode import ImageReadError
from vl_ltr_jax.data.sources.dataset import LongTailedData
from vl_ltr_jax.evaluate.accuracy import Ranking
from vl_ltr_jax.logs import messages
from vl_ltr_jax.logs.event_files import Logs
from vl_ltr_jax.method import shots

RULE = "standard"
SHOWN_MISTAKES = 8  # of each group
SHOWN_CLASSES = 20  # of each group, whose anchors are written
SHOWN_SENTENCES = 8  # of each of these

_SIDE, _LINE, _LINES_EACH, _FONT_SIZE = 224, 15, 2, 12
_PAPER, _INK = (255, 255, 255), (0, 0, 0)

Transform = Callable[[Image.Image], UInt8[np.ndarray, "H W 3"]]


def write(
    logs: Logs,
    workdir: str | os.PathLike[str],
    config: settings.Config,
    data: LongTailedData,
    summary: Mapping[str, Any],
    images: Mapping[str, Mapping[str, np.ndarray]],
    transform: Transform,
    anchors: Sequence[Sequence[str]] = (),
) -> None:
    """Writes all of it, in process 0.

    Args:
      logs: of the stage that evaluates.
      workdir: of the run.
      config: of the run.
      data: names, counts and the test pictures.
      summary: what the stage gives: `predicted_by`, and for `val` and `test` the
        accuracies of each head, see `split.summarise`.
      images: for `val` and `test` the arrays of :class:`Ranking`.
      transform: from a picture to the pixels that evaluation sees.
      anchors: of each class its sentences, best first; none where there are no anchors.
    """
    if jax.process_index() != 0:
        return
    own = own_accuracies(summary)
    logs.result(os.fspath(workdir), settings.flatten(config), own)
    logs.scalars(0, accuracies(summary))
    groups = shots.shot_groups(data.train_counts, RULE)
    for split, arrays in images.items():
        found = Ranking.from_arrays(arrays)
        for group, members in groups.items():
            margins = np.asarray(found.margins[members[found.labels]])
            if len(margins):
                logs.histogram(0, f"{split}/margin/{group}", margins)
    found = Ranking.from_arrays(images["test"])
    for group, members in groups.items():
        if not members.any():
            continue
        write_mistakes(logs, group, members, found, data, transform)
        if len(anchors):
            text = anchor_text(members, anchors, data.class_names, data.train_counts)
            logs.text(0, f"anchors/{group}", text)


def accuracies(summary: Mapping[str, Any]) -> dict[str, float]:
    """Returns accuracies in percent under their names, of every split and head.

    Args:
      summary: see :func:`write`.
    """
    return {
        f"{split}/{head}/{name}": value
        for split in ("test", "val")
        for head, result in summary[split].items()
        for name, value in {**_known(result), **_by_vl_ltr_rule(result)}.items()
    }


def own_accuracies(summary: Mapping[str, Any]) -> dict[str, float]:
    """The same of the run's own head on the test images: its result.

    Args:
      summary: see :func:`write`.
    """
    return _known(summary["test"][summary["predicted_by"]])


def _known(result: Mapping[str, Any]) -> dict[str, float]:
    """Of one head; groups without images have none."""
    values = {n: result[n] for n in ("top1", "class_mean")} | result["shots"][RULE]
    return {f"accuracy/{n}": value for n, value in values.items() if value is not None}


def _by_vl_ltr_rule(result: Mapping[str, Any]) -> dict[str, float]:
    groups = result["shots"]["vl_ltr"]
    return {f"accuracy_vl_ltr/{n}": v for n, v in groups.items() if v is not None}


def write_mistakes(
    logs: Logs,
    group: str,
    members: Bool[np.ndarray, " C"],
    found: Ranking,
    data: LongTailedData,
    transform: Transform,
) -> None:
    """Writes the misclassified test pictures of a group that have the lowest margins.

    Pictures carry the names of both classes; a text has them too, whatever their
    script, and which images these are.

    Args:
      logs: to write to.
      group: its name.
      members: its classes.
      found: predictions for the test images.
      data: names, counts and the test pictures.
      transform: from a picture to the pixels that evaluation sees.
    """
    ours = members[found.labels]
    mistakes = np.flatnonzero(ours & (found.classes[:, 0] != found.labels))
    order = np.argsort(found.margins[mistakes], kind="stable")
    rows, pictures = [], []
    for number, index in enumerate(mistakes[order[:SHOWN_MISTAKES]].tolist(), 1):
        true = data.class_names[found.labels[index]]
        said = data.class_names[found.classes[index, 0]]
        sure = f"{found.probabilities[index, 0]:.0%}"
        cells = (str(number), true, said, sure, data.test.describe(index))
        rows.append(f"| {' | '.join(map(_escaped, cells))} |")
        with contextlib.suppress(ImageReadError):  # it was there a moment ago
            pixels = transform(data.test.read(index))
            captions = (f"{number}. {true}", f"taken for {said}, {sure}")
            pictures.append(captioned(pixels, captions))
    if pictures:
        logs.images(0, f"misclassified/{group}", np.stack(pictures))
    told = f"{len(mistakes):,} of {ours.sum():,} test images are misclassified"
    if rows:
        heading = (
            f"{told}; the {len(rows)} of the lowest margin:",
            "",
            "| | true | predicted | probability | image |",
            "|---|---|---|---|---|",
        )
        told = "\n".join([*heading, *rows])
    logs.text(0, f"misclassified/{group}/names", told)


def captioned(
    pixels: UInt8[np.ndarray, "H W 3"], captions: Sequence[str]
) -> UInt8[np.ndarray, "height width 3"]:
    """A picture with captions below, of one size whatever is given.

    Letters that the font lacks (those of East Asia) are drawn as boxes.

    Args:
      pixels: the picture.
      captions: each takes up to two lines, and is cut where that is too little.
    """
    height = _SIDE + len(captions) * _LINES_EACH * _LINE
    canvas = Image.new("RGB", (_SIDE, height), _PAPER)
    canvas.paste(Image.fromarray(pixels).resize((_SIDE, _SIDE)))
    draw, font = ImageDraw.Draw(canvas), _font()
    letters = int(_SIDE / font.getlength("n"))
    lines = itertools.chain.from_iterable(
        textwrap.wrap(_printable(caption), letters, max_lines=_LINES_EACH)
        for caption in captions
    )
    for line, words in enumerate(lines):
        draw.text((0, _SIDE + line * _LINE), words, _INK, font)
    return np.asarray(canvas)


def anchor_text(
    members: Bool[np.ndarray, " C"],
    anchors: Sequence[Sequence[str]],
    class_names: Sequence[str],
    train_counts: Int[np.ndarray, " C"],
) -> str:
    """Anchor sentences of a group's classes as Markdown, the best first.

    Args:
      members: classes of the group.
      anchors: of each class its sentences, best first.
      class_names: C names.
      train_counts: training images of each class.
    """
    classes = np.flatnonzero(members)
    order = classes[np.argsort(-train_counts[classes], kind="stable")]
    chosen = order[_spread(len(order), SHOWN_CLASSES)]
    parts = [
        f"{len(chosen)} of {len(classes):,} classes, at most {SHOWN_SENTENCES} "
        "sentences of each; `anchors/sentences.json` in the workdir has all."
    ]
    for label in chosen.tolist():
        sentences = anchors[label]
        name, count = _escaped(class_names[label]), int(train_counts[label])
        parts.append(
            f"### {name} ({messages.counted(count, 'training image')}, "
            f"{messages.counted(len(sentences), 'anchor')})"
        )
        parts.append(
            "\n".join(
                f"{place}. {_escaped(sentence)}"
                for place, sentence in enumerate(sentences[:SHOWN_SENTENCES], 1)
            )
        )
    return "\n\n".join(parts)


def _spread(count: int, most: int) -> Int[np.ndarray, " n"]:
    """Places evenly over `count`, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    """Pillow's own has no letters beyond English; Matplotlib ships one that has."""
    import matplotlib  # takes a while, and training needs none of it

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(path, _FONT_SIZE)


def _printable(text: str) -> str:
    """One line, of what can be drawn."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _escaped(text: str) -> str:
    """Text that Markdown and HTML leave as it is, on one line."""
    plain = html.escape(" ".join(_printable(text).split()), quote=False)
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|])", r"\\\1", plain)
