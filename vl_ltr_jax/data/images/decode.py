"""Image files to RGB pictures, pixel for pixel as Pillow decodes them.

Differs from VL-LTR: of 16-bit grey the high bytes are kept, where Pillow's conversion
cuts every value above 255 to white.

Whether a picture is turned as its EXIF data ask, the caller says, see `orientation`.
JPEG files go through `jpeg`, which gives Pillow's pixels faster; whatever it refuses
(CMYK, damage, other formats) goes through Pillow. Not in the paper.
"""

import dataclasses
import functools
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from vl_ltr_jax.data import root as roots
from vl_ltr_jax.data.images.jpeg import (
    MOST_SCANS,
    Jpeg,
    count_scans,
    is_jpeg,
    metadata,
    most_pixels,
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
from vl_ltr_jax.data.root import Root
from vl_ltr_jax.runtime.errors import UserError

_Result = TypeVar("_Result")
LARGEST_FILE = 512 * 2**20  # bytes
# Portable maps may have comments, which Pillow reads byte by byte.
_LONGEST_HEADER = 2**14  # bytes
_LARGEST_TEXT = 2**24  # bytes of a map whose pixels are text
_MAPS = re.compile(rb"P[0-6fy]")
_TEXT_MAPS = (b"P1", b"P2", b"P3")
_NUMBER = rb"\s(?:\s|#[^\r\n]*[\r\n])*[^\s#]+"
# Magic number, width, height and, unless it is of bits, the largest value.
_HEADER = re.compile(rb"P(?:[14]|[^\s#]+%b)%b%b\s" % (_NUMBER, _NUMBER, _NUMBER))
_PNG = b"\x89PNG\r\n\x1a\n"
# Chunks of a PNG that its pixels, frames and orientation need.
_PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"acTL", b"fcTL", b"fdAT", b"IDAT", b"IEND")
_PNG_ORIENTATIONS = (
    *(b"eXIf", b"tEXtRaw profile type exif\0", b"zTXtRaw profile type exif\0"),
    b"iTXtXML:com.adobe.xmp\0",
)
# Pillow knows more, and runs Ghostscript for one of them.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000")


class ImageReadError(UserError):
    """An image file that is missing, cut short or not an image.

    Attributes:
      reason: what is wrong, without the file's name and what to do about it.
    """

    reason = ""


def read_image(
    path: Path, description: str, orientation: Orientation = "exif"
) -> Image.Image:
    """Returns a file's picture, see :func:`decode_image`.

    Args:
      path: the file.
      description: the file and the row that lists it, for the error.
      orientation: see :func:`decode_image`.

    Raises:
      ImageReadError: if the file cannot be read or decoded.
    """
    content = read_content(path, description)
    return as_image(decode_image(content, description, orientation))


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A JPEG that is decoded when a part of it is asked for, and as far as needed.

    Attributes:
      jpeg: the file.
      description: the file and the row that lists it, for the error.
      turn: what is done to the file's pixels.
    """

    jpeg: Jpeg
    description: str
    turn: Turn | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, as Pillow has it, turned."""
        return turned_size((self.jpeg.width, self.jpeg.height), self.turn)

    def crop(self, box: Box) -> Image.Image:
        """Returns the part in a box inside the turned picture, as RGB.

        Raises:
          ImageReadError: if it cannot be decoded.
        """
        box = stored_box(box, (self.jpeg.width, self.jpeg.height), self.turn)
        left, top, right, bottom = box
        rows = self.jpeg.rows(bottom)
        if rows is None:
            whole = _with_pillow(self.jpeg.content, self.description, "stored")
            return turned(whole.crop(box), self.turn)
        return turned(Image.fromarray(rows[top:bottom, left:right]), self.turn)


# RGB; both have a size, and can be cropped.
Picture: TypeAlias = Image.Image | Encoded


def as_image(picture: Picture) -> Image.Image:
    """The whole of a picture.

    Raises:
      ImageReadError: if it cannot be decoded.
    """
    if isinstance(picture, Image.Image):
        return picture
    return picture.crop((0, 0, *picture.size))


def read_content(path: Path, description: str) -> bytes:
    """The bytes of an image file that a person names; it may be a pipe.

    Raises:
      ImageReadError: if they cannot be read, or are more than any image has.
    """
    return _content(lambda: roots.read_any(path, LARGEST_FILE), description)


def read_listed(root: Root, name: str, description: str) -> bytes:
    """The bytes of an image file of a data set, see `Root.read_listed`.

    Raises:
      ImageReadError: if it is no regular file, lies outside the root, or cannot be
        read.
    """
    return _content(lambda: root.read_listed(name, LARGEST_FILE), description)


def _content(read: Callable[[], bytes], description: str) -> bytes:
    try:
        return read()
    except roots.FileError as error:
        raise unreadable(description, error.reason) from None
    except OSError as error:
        raise unreadable(description, error) from None


def decode_image(
    content: bytes, description: str, orientation: Orientation = "exif"
) -> Picture:
    """Returns a file's picture as RGB, like Pillow's `convert('RGB')`.

    Args:
      content: the whole file.
      description: the file and the row that lists it, for the error.
      orientation: `exif` turns the picture as `PIL.ImageOps.exif_transpose` does,
        `stored` leaves the pixels as the file has them; alike for every format.

    Raises:
      ImageReadError: if it is not an image; what is damaged within, a JPEG tells when
        its pixels are asked for.
    """
    if not content:
        raise unreadable(description, "an empty file, of zero bytes")
    if jpeg := open_jpeg(content):
        turn = None
        if orientation == "exif":
            turn = turn_of_metadata(metadata(content))
        return Encoded(jpeg, description, turn)
    if is_jpeg(content) and count_scans(content) > MOST_SCANS:
        # A few bytes each, of which every one goes over the whole picture.
        raise unreadable(description, f"a JPEG of more than {MOST_SCANS} scans")
    if _MAPS.match(content):
        _check_map(content, description)
    return _with_pillow(content, description, orientation)


def asks_for_turn(content: bytes) -> bool:
    """Returns True if the metadata of a sound image file ask for a turn."""
    if is_jpeg(content):
        return turn_of_metadata(metadata(content)) is not None
    return _opened(content, read_turn) is not None


def _check_map(content: bytes, description: str) -> None:
    header = _HEADER.match(content, 0, _LONGEST_HEADER)
    if header is None:
        reason = f"a portable map whose header is not in its first {_LONGEST_HEADER} "
        raise unreadable(description, f"{reason}bytes")
    if not content.startswith(_TEXT_MAPS):
        return
    if len(content) > _LARGEST_TEXT or b"#" in content[header.end() :]:
        raise unreadable(
            description,
            f"a portable map of text with more than {_LARGEST_TEXT} bytes, or comments "
            "among its pixels; save it as PNG",
        )


def _with_pillow(
    content: bytes, description: str, orientation: Orientation
) -> Image.Image:
    try:
        return _opened(content, lambda image: to_rgb(image, orientation))
    except Image.DecompressionBombError:
        reason = (
            f"its header claims more pixels than the {most_pixels()} of the largest"
        )
    except UnidentifiedImageError:
        reason = f"not an image of a format that is read ({', '.join(FORMATS)})"
    except Exception as error:  # Pillow's decoders raise SyntaxError and more
        reason = f"{type(error).__name__}: {error}"
    raise unreadable(description, reason)


def unreadable(description: str, reason: object) -> ImageReadError:
    """The error for an image that cannot be read."""
    short = str(reason)
    if isinstance(reason, OSError):
        short = reason.strerror or short
        reason = f"{type(reason).__name__}: {reason}"
    error = ImageReadError(
        f"cannot read the image {description}: {reason}. Replace the file, or leave it "
        "out"
    )
    error.reason = short
    return error


def _opened(content: bytes, read: Callable[[Image.Image], _Result]) -> _Result:
    """Returns what a function makes of a file that Pillow opens."""
    try:
        with Image.open(io.BytesIO(content), formats=_formats()) as image:
            return read(image)
    except Image.DecompressionBombError:
        raise
    except Exception:
        # Pillow refuses a PNG for a text of over a MiB, and for any damaged chunk.
        bare = _without_comments(content) if content.startswith(_PNG) else content
        if len(bare) == len(content):
            raise
        with Image.open(io.BytesIO(bare), formats=_formats()) as image:
            return read(image)


def _without_comments(content: bytes) -> bytes:
    """Returns a PNG without texts, profiles and other chunks that hold no pixels."""
    parts, place = [_PNG], len(_PNG)
    while place + 8 <= len(content):
        end = place + 12 + int.from_bytes(content[place : place + 4], "big")
        if content.startswith(_PNG_CHUNKS + _PNG_ORIENTATIONS, place + 4):
            parts.append(content[place:end])
        place = end
    return b"".join(parts)


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those that this build of Pillow has."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def to_rgb(image: Image.Image, orientation: Orientation = "exif") -> Image.Image:
    """Returns a picture of any mode as RGB.

    Args:
      image: opened by Pillow, loaded or not.
      orientation: see :func:`decode_image`.

    Raises:
      ValueError: for pixels of 32 bits, whose range is not known.
    """
    if orientation == "exif":
        rgb = _convert(image)  # loaded: what Pillow has turned asks for nothing more
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
