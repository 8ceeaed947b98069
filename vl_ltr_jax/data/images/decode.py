"""Image files as RGB pictures, pixel for pixel as Pillow decodes them.

Differs from VL-LTR: 16-bit grey keeps its high bytes, while Pillow's conversion cuts
every value above 255 to white.

JPEG files go through `jpeg`, which gives Pillow's pixels faster. Pillow decodes the
files that `jpeg` refuses: CMYK, damage, other formats. Not in the paper.
"""

import dataclasses
import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from vl_ltr_jax.data.images.jpeg import (
    Jpeg,
    is_jpeg,
    max_pixels,
    metadata,
    open_jpeg,
)
from vl_ltr_jax.data.images.orientation import (
    Box,
    Orientation,
    Turn,
    read_turn,
    stored_box,
    turn_of_metadata,
    turned,
    turned_size,
    unturned,
)
from vl_ltr_jax.data.root import FileError, read_file
from vl_ltr_jax.runtime.errors import UserError

_Result = TypeVar("_Result")
_PNG = b"\x89PNG\r\n\x1a\n"
# Chunks of a PNG that its pixels, frames and orientation need.
_PNG_CHUNKS = (
    *(b"IHDR", b"PLTE", b"tRNS", b"acTL", b"fcTL", b"fdAT", b"IDAT", b"IEND"),
    *(b"eXIf", b"tEXtRaw profile type exif\0", b"zTXtRaw profile type exif\0"),
    b"iTXtXML:com.adobe.xmp\0",
)
# Pillow knows more, and runs Ghostscript for EPS.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000")


class ImageReadError(UserError):
    """An image file that is missing, cut short or not an image.

    Attributes:
      reason: the fault alone, without the name of the file and the advice.
    """

    reason = ""


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A JPEG that is decoded as far down as a crop needs.

    Attributes:
      description: file and row of the list, for errors.
      turn: change between the pixels of the file and the picture.
    """

    jpeg: Jpeg
    description: str
    turn: Turn | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the turned picture."""
        return turned_size((self.jpeg.width, self.jpeg.height), self.turn)

    def crop(self, box: Box) -> Image.Image:
        """Returns a box inside the turned picture as RGB.

        Raises:
          ImageReadError: the file cannot be decoded.
        """
        box = stored_box(box, (self.jpeg.width, self.jpeg.height), self.turn)
        x0, y0, x1, y1 = box
        rows = self.jpeg.rows(y1)
        if rows is None:
            picture = _with_pillow(self.jpeg.content, self.description, "stored")
            return turned(picture.crop(box), self.turn)
        return turned(Image.fromarray(rows[y0:y1, x0:x1]), self.turn)


# RGB; both have a size, and can be cropped.
Picture: TypeAlias = Image.Image | Encoded


def as_image(picture: Picture) -> Image.Image:
    """Returns all pixels of a picture.

    Raises:
      ImageReadError: the file cannot be decoded.
    """
    if isinstance(picture, Image.Image):
        return picture
    return picture.crop((0, 0, *picture.size))


def read_content(path: Path, description: str) -> bytes:
    """Returns the bytes of an image file.

    Raises:
      ImageReadError: the file cannot be read.
    """
    try:
        return read_file(path)
    except FileError as error:
        raise unreadable(description, error.reason) from None


def decode_image(
    content: bytes, description: str, orientation: Orientation = "exif"
) -> Picture:
    """Returns the picture of a file as RGB, like Pillow's `convert('RGB')`.

    Args:
      content: bytes of the file.
      description: file and row of the list, for errors.
      orientation: `exif` turns the picture as `PIL.ImageOps.exif_transpose` does;
        `stored` leaves the pixels as the file has them.

    Raises:
      ImageReadError: the file is no image. Damage in a JPEG is found later, when its
        pixels are decoded.
    """
    if not content:
        raise unreadable(description, "an empty file, of zero bytes")
    if jpeg := open_jpeg(content):
        turn = None
        if orientation == "exif":
            turn = turn_of_metadata(metadata(content))
        return Encoded(jpeg, description, turn)
    return _with_pillow(content, description, orientation)


def asks_for_turn(content: bytes) -> bool:
    """Returns True if the metadata of a sound image file ask for a turn."""
    if is_jpeg(content):
        return turn_of_metadata(metadata(content)) is not None
    return _opened(content, read_turn) is not None


def _with_pillow(
    content: bytes, description: str, orientation: Orientation
) -> Image.Image:
    try:
        return _opened(content, lambda image: to_rgb(image, orientation))
    except Image.DecompressionBombError:
        reason = f"its header claims more pixels than the limit of {max_pixels():,}"
    except UnidentifiedImageError:
        reason = f"not an image of a format that is read ({', '.join(FORMATS)})"
    except Exception as error:  # Pillow's decoders raise SyntaxError and more
        reason = f"{type(error).__name__}: {error}"
    raise unreadable(description, reason)


def unreadable(description: str, reason: object) -> ImageReadError:
    """Returns the error for an image that cannot be read."""
    error = ImageReadError(
        f"cannot read the image {description}: {reason}. Replace the file, or leave it "
        "out"
    )
    error.reason = str(reason)
    return error


def _opened(content: bytes, function: Callable[[Image.Image], _Result]) -> _Result:
    """Returns the value of a function of the image that Pillow opens."""
    try:
        with Image.open(io.BytesIO(content), formats=_formats()) as image:
            return function(image)
    except Image.DecompressionBombError:
        raise
    except Exception:
        # Pillow refuses a PNG for a text of over a MiB, and for any damaged chunk.
        bare = _without_comments(content) if content.startswith(_PNG) else content
        if len(bare) == len(content):
            raise
        with Image.open(io.BytesIO(bare), formats=_formats()) as image:
            return function(image)


def _without_comments(content: bytes) -> bytes:
    """Returns a PNG without texts and other chunks that hold no pixels."""
    parts, place = [_PNG], len(_PNG)
    while place + 8 <= len(content):
        end = place + 12 + int.from_bytes(content[place : place + 4], "big")
        if content.startswith(_PNG_CHUNKS, place + 4):
            parts.append(content[place:end])
        place = end
    return b"".join(parts)


@functools.cache
def _formats() -> tuple[str, ...]:
    """Returns the formats that this build of Pillow reads."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def to_rgb(image: Image.Image, orientation: Orientation = "exif") -> Image.Image:
    """Returns a picture of any mode as RGB.

    Args:
      image: opened by Pillow, loaded or not.
      orientation: as in :func:`decode_image`.

    Raises:
      ValueError: the pixels have 32 bits, so their range is not known.
    """
    if orientation == "exif":
        rgb = _convert(image)  # loads it: Pillow then drops the tag of a turned TIFF
        return turned(rgb, read_turn(image))
    # Pillow turns TIFFs when it loads them, and then forgets the tag.
    turn = read_turn(image) if image.format == "TIFF" else None
    return unturned(_convert(image), turn)


def _convert(image: Image.Image) -> Image.Image:
    if image.mode == "P" and "transparency" in image.info:
        # Same colours as straight to RGB, without Pillow's warning.
        return image.convert("RGBA").convert("RGB")
    if image.mode.startswith("I;16"):
        high_bytes = (np.asarray(image) >> 8).astype(np.uint8)
        return Image.fromarray(high_bytes).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError("pixels of 32 bits, whose range is not known: save 8 bits")
    return image.convert("RGB")
