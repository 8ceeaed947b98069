"""Image files to RGB pictures, pixel for pixel as Pillow decodes them.

Differs from VL-LTR: of 16-bit grey the high bytes are kept, where Pillow's conversion
cuts every value above 255 to white.

JPEG files go through simplejpeg, which gives Pillow's pixels faster; whatever it
refuses (CMYK, odd markers, other formats) goes through Pillow. Not in the paper.
"""

import io
from pathlib import Path
from typing import TypeAlias

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

# RGB, as it was decoded: a crop of an array is made without a copy of the whole.
Picture: TypeAlias = Image.Image | UInt8[np.ndarray, "height width 3"]

_JPEG = b"\xff\xd8\xff"


class ImageReadError(ValueError):
    """An image file that is missing, cut short or not an image."""


def read_image(path: Path, description: str) -> Image.Image:
    """Reads a file as :func:`decode_image` does.

    Args:
      path: the file.
      description: the file and the row that lists it, for the error.

    Raises:
      ImageReadError: if the file cannot be read or decoded.
    """
    return as_image(decode_image(read_content(path, description), description))


def as_image(picture: Picture) -> Image.Image:
    """A picture for Pillow."""
    if isinstance(picture, Image.Image):
        return picture
    return Image.fromarray(picture)


def read_content(path: Path, description: str) -> bytes:
    """The bytes of an image file.

    Raises:
      ImageReadError: if they cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(description, error) from None


def decode_image(content: bytes, description: str) -> Picture:
    """Decodes a file as RGB, like Pillow's `convert('RGB')` and without EXIF turns.

    Args:
      content: the whole file.
      description: the file and the row that lists it, for the error.

    Raises:
      ImageReadError: if it is not a whole image.
    """
    try:
        pixels = _decode_jpeg(content)
        return _decode(content) if pixels is None else pixels
    except Image.DecompressionBombError as error:
        reason = str(error)
    except UnidentifiedImageError:
        reason = "not an image of a format that Pillow knows"
    except Exception as error:  # Pillow's decoders raise SyntaxError and more
        reason = f"{type(error).__name__}: {error}"
    raise unreadable(description, reason)


def unreadable(description: str, reason: object) -> ImageReadError:
    """The error for an image that cannot be read."""
    if isinstance(reason, OSError):
        reason = f"{type(reason).__name__}: {reason}"
    return ImageReadError(
        f"cannot read the image {description}: {reason}. Replace the file, or remove "
        "its row from the list"
    )


def _decode_jpeg(content: bytes) -> UInt8[np.ndarray, "H W 3"] | None:
    """None where Pillow has to decide: not a JPEG, unusual colours, or damage."""
    if not content.startswith(_JPEG):
        return None
    try:
        if simplejpeg.decode_jpeg_header(content)[2] not in ("YCbCr", "Gray"):
            return None
        return simplejpeg.decode_jpeg(content, "RGB")
    except ValueError:
        return None


def _decode(content: bytes) -> Image.Image:
    with Image.open(io.BytesIO(content)) as image:
        if image.mode == "P" and "transparency" in image.info:
            # Same colours as straight to RGB, without Pillow's warning.
            return image.convert("RGBA").convert("RGB")
        if image.mode.startswith("I;16"):
            high_bytes = (np.asarray(image) >> 8).astype(np.uint8)
            return Image.fromarray(high_bytes).convert("RGB")
        if image.mode in ("I", "F"):
            raise ValueError("pixels of 32 bits, whose range is not known: save 8 bits")
        return image.convert("RGB")
