"""A contact sheet: training examples as pictures, with captions."""

import functools
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from vl_ltr_jax.runtime.errors import UserError
from vl_ltr_jax.storage import atomic

_SMALLEST_SIDE, _LARGEST_SIDE = 112, 224  # of a picture on the sheet, in pixels
_MARGIN, LINE_HEIGHT, _LINES = 8, 15, 6
PAPER, INK, _FRAME = (255, 255, 255), (0, 0, 0), (160, 160, 160)


class SheetError(UserError):
    """The file name has no picture format."""


class SheetExample(NamedTuple):
    """An example on a contact sheet.

    Attributes:
      model_input: pixels that the model sees.
      eval_picture: evaluation pixels of the same image.
      caption: number and class of the example.
      sentence: sentence of the example; empty if the run trains without text.
      where: file and row of the image.
    """

    model_input: UInt8[np.ndarray, "H W 3"]
    eval_picture: UInt8[np.ndarray, "H W 3"]
    caption: str
    sentence: str
    where: str


def contact_sheet(examples: Sequence[SheetExample], columns: int) -> Image.Image:
    """Returns a picture of examples: input, evaluation picture, caption, sentence.

    Args:
      examples: at least one, all of one size.
      columns: examples in a row.
    """
    side = min(max(examples[0].model_input.shape[0], _SMALLEST_SIDE), _LARGEST_SIDE)
    width, height = 2 * side + _MARGIN, side + _LINES * LINE_HEIGHT
    columns = min(columns, len(examples))
    rows = -(-len(examples) // columns)
    sheet = Image.new(
        "RGB",
        (columns * (width + _MARGIN) + _MARGIN, rows * (height + _MARGIN) + _MARGIN),
        PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    letters = letters_in(width)
    for number, example in enumerate(examples):
        row, column = divmod(number, columns)
        x, top = (
            _MARGIN + place * (length + _MARGIN)
            for place, length in ((column, width), (row, height))
        )
        for offset, pixels in enumerate((example.model_input, example.eval_picture)):
            picture = Image.fromarray(pixels).resize((side, side))
            sheet.paste(picture, (x + offset * (side + _MARGIN), top))
            edge = x + offset * (side + _MARGIN)
            draw.rectangle((edge - 1, top - 1, edge + side, top + side), outline=_FRAME)
        lines = [
            *textwrap.wrap(example.caption, letters, max_lines=2),
            *textwrap.wrap(example.sentence, letters, max_lines=_LINES - 2),
        ]
        for line, words in enumerate(lines):
            place = (x, top + side + line * LINE_HEIGHT)
            draw.text(place, words, INK, caption_font())
    return sheet


@functools.cache
def caption_font() -> ImageFont.FreeTypeFont:
    """Returns a font with accents, Greek and Cyrillic, which Pillow's own lacks."""
    import matplotlib  # takes a while, and training does not need it

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(path, 12)


def letters_in(width: int) -> int:
    """Returns the number of letters on a line of a caption."""
    return int(width / caption_font().getlength("n"))


def check_place(out: Path) -> None:
    """Checks a file name before the sheet is made.

    Raises:
      SheetError: the suffix is not a picture's, or the file is a directory.
    """
    kind = Image.registered_extensions().get(out.suffix.lower())
    if kind not in Image.SAVE or out.is_dir():
        raise SheetError(f"--out={out}: a picture file is needed, such as sheet.png")


def write(sheet: Image.Image, out: Path) -> None:
    """Writes a sheet atomically, and the directories around it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic.write(out) as file:
        sheet.save(file, Image.registered_extensions()[out.suffix.lower()])
