"""A contact sheet: examples of training as pictures, with words below."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from vl_ltr_jax.runtime.errors import UserError
from vl_ltr_jax.storage import atomic

_SMALLEST_SIDE, _LARGEST_SIDE = 112, 224  # of a picture on the sheet, in pixels
_MARGIN, _LINE, _LINES, _FONT_SIZE = 8, 15, 6, 12
_PAPER, _INK, _FRAME = (255, 255, 255), (0, 0, 0), (160, 160, 160)


class SheetError(UserError):
    """A file that can hold no picture."""


class Shown(NamedTuple):
    """An example as the sheet has it.

    Attributes:
      seen: by the model, [H, W, 3].
      whole: the evaluation picture of the same image, [H, W, 3].
      caption: which it is, and of what class.
      where: the image's file and row.
      sentence: drawn with it; empty where the run trains without text.
    """

    seen: UInt8[np.ndarray, "H W 3"]
    whole: UInt8[np.ndarray, "H W 3"]
    caption: str
    sentence: str
    where: str


def contact_sheet(shown: Sequence[Shown], columns: int) -> Image.Image:
    """Examples in rows: the picture seen, the whole one, and the words below.

    Args:
      shown: at least one example, all of one size.
      columns: examples in a row.
    """
    side = min(max(shown[0].seen.shape[0], _SMALLEST_SIDE), _LARGEST_SIDE)
    width, height = 2 * side + _MARGIN, side + _LINES * _LINE
    columns = min(columns, len(shown))
    rows = -(-len(shown) // columns)
    sheet = Image.new(
        "RGB",
        (columns * (width + _MARGIN) + _MARGIN, rows * (height + _MARGIN) + _MARGIN),
        _PAPER,
    )
    # Pillow's own font lacks most accents; matplotlib brings one that has them.
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), _FONT_SIZE)
    draw = ImageDraw.Draw(sheet)
    letters = int(width / font.getlength("n"))
    for number, example in enumerate(shown):
        row, column = divmod(number, columns)
        left, top = (
            _MARGIN + place * (length + _MARGIN)
            for place, length in ((column, width), (row, height))
        )
        for offset, pixels in enumerate((example.seen, example.whole)):
            picture = Image.fromarray(pixels).resize((side, side))
            sheet.paste(picture, (left + offset * (side + _MARGIN), top))
            edge = left + offset * (side + _MARGIN)
            draw.rectangle((edge - 1, top - 1, edge + side, top + side), outline=_FRAME)
        lines = [
            *textwrap.wrap(example.caption, letters, max_lines=2),
            *textwrap.wrap(example.sentence, letters, max_lines=_LINES - 2),
        ]
        for line, words in enumerate(lines):
            draw.text((left, top + side + line * _LINE), words, _INK, font)
    return sheet


def check_place(out: Path) -> None:
    """Refuses a file that :func:`write` could not write.

    Raises:
      SheetError: if it is no picture by its name, or a directory.
    """
    kind = Image.registered_extensions().get(out.suffix.lower())
    if kind not in Image.SAVE or out.is_dir():
        raise SheetError(f"--out={out}: a picture file is needed, such as sheet.png")


def write(sheet: Image.Image, out: Path) -> None:
    """Writes a sheet, and the directories around it; it appears whole.

    Raises:
      OSError: if it cannot be written.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic.write(out) as file:
        sheet.save(file, Image.registered_extensions()[out.suffix.lower()])
