"""JPEG files through simplejpeg: Pillow's pixels, faster, and no lower than needed.

A crop that ends half-way down does not need the rows below. A decoder stops early if
the header claims a smaller height. Its rows are the same, except the last few: there
the filter for colours misses the rows below.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

Rows = UInt8[np.ndarray, "height width 3"]

_START, _SCAN, _END = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"
_SEQUENTIAL = (0xC0, 0xC1)  # frames whose rows are coded once, from top to bottom
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_METADATA, _EXIF, _XMP = 0xE1, b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_MARGIN = 16  # rows: the filter reads one more row of the coarsest colours


@dataclasses.dataclass(frozen=True)
class Jpeg:
    """A JPEG file of a kind whose pixels equal Pillow's.

    Attributes:
      content: bytes of the file.
      height_at: position of the height in the header; 0 if every row must be decoded.
    """

    content: bytes
    width: int
    height: int
    height_at: int

    def rows(self, number: int) -> Rows | None:
        """Returns at least the first `number` rows, or None if the file is damaged."""
        number += _MARGIN
        content, strict = self.content, True
        if self.height_at and number < self.height:
            start, end = self.height_at, self.height_at + 2
            content = content[:start] + number.to_bytes(2, "big") + content[end:]
            strict = False  # the decoder warns of the data below the last row
        try:
            return simplejpeg.decode_jpeg(content, "RGB", strict=strict)
        except ValueError:
            return None


def is_jpeg(content: bytes) -> bool:
    """Returns True if a file begins as JPEGs do."""
    return content.startswith(_START)


def max_pixels() -> float:
    """Returns the pixels above which Pillow refuses a picture as a bomb."""
    return 2 * (Image.MAX_IMAGE_PIXELS or np.inf)


def open_jpeg(content: bytes) -> Jpeg | None:
    """Returns a JPEG by its header, or None if Pillow has to decode the file."""
    if not is_jpeg(content):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
    except (ValueError, KeyError):  # KeyError: a sampling of colours without a name
        return None
    if colours not in ("YCbCr", "Gray") or width * height > max_pixels():
        return None
    # A damaged file must fail even if the crop lies above the damage.
    is_complete = content.endswith(_END) and _is_one_scan(content)
    return Jpeg(content, width, height, _height_at(content) if is_complete else 0)


def _is_one_scan(content: bytes) -> bool:
    """Returns True if only markers of restarts lie between the scan and the end."""
    scan = np.frombuffer(content, np.uint8)[content.find(_SCAN) + 2 : -2]
    after = scan[1:][scan[:-1] == 0xFF]
    return bool(((after == 0) | ((after >= 0xD0) & (after <= 0xD7))).all())


def _height_at(content: bytes) -> int:
    """Returns the position of the height in a sequential JPEG; 0 for other JPEGs."""
    for marker, place in _segments(content):
        if marker in _FRAMES:
            return place + 5 if marker in _SEQUENTIAL else 0
    return 0


def metadata(content: bytes) -> dict[str, bytes]:
    """Returns a JPEG's EXIF and XMP under the names that Pillow gives them."""
    result: dict[str, bytes] = {}
    for marker, place in _segments(content):
        if marker != _METADATA:
            continue
        length = int.from_bytes(content[place + 2 : place + 4], "big")
        segment = content[place + 4 : place + 2 + length]
        if segment.startswith(_EXIF):  # a large one goes on in further segments
            known = "exif" in result
            more = segment.removeprefix(_EXIF) if known else segment
            result["exif"] = result.get("exif", b"") + more
        elif segment.startswith(_XMP):
            result["xmp"] = segment.removeprefix(_XMP)
    return result


def _segments(content: bytes) -> Iterator[tuple[int, int]]:
    """Yields marker and position of each segment before the coded picture."""
    place = 2
    while place + 9 < len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker == 0xFF:  # a filler
            place += 1
            continue
        if marker == _SCAN[1]:
            return
        yield marker, place
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
