"""JPEG files through simplejpeg: Pillow's pixels, faster, and no lower than needed.

A crop that ends half-way down does not need the rows below. A decoder stops early when
the header says that the picture is shorter, and the rows it gives are the same, but for
those at its end, where the filter for colours misses what follows.
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
MOST_SCANS = 500  # as the makers of libjpeg-turbo advise; cameras and editors make 10
_MOST_SEGMENTS = 10_000  # and fillers before the frame; files that have more are odd
_MARGIN = 16  # rows: the filter looks one further row of the coarsest colours down


@dataclasses.dataclass(frozen=True)
class Jpeg:
    """A JPEG file of a kind whose pixels equal Pillow's.

    Attributes:
      content: the file.
      width: in pixels.
      height: in pixels.
      height_at: where the header has the height; 0 where rows cannot be left out.
    """

    content: bytes
    width: int
    height: int
    height_at: int

    def rows(self, number: int) -> Rows | None:
        """At least the first `number` rows; None where Pillow has to decide."""
        number += _MARGIN
        content, strict = self.content, True
        if self.height_at and number < self.height:
            start, end = self.height_at, self.height_at + 2
            content = content[:start] + number.to_bytes(2, "big") + content[end:]
            strict = False  # what follows the rows is of no use to the decoder
        try:
            return simplejpeg.decode_jpeg(content, "RGB", strict=strict)
        except ValueError:
            return None


def is_jpeg(content: bytes) -> bool:
    """Whether a file begins as JPEGs do."""
    return content.startswith(_START)


def count_scans(content: bytes) -> int:
    """How many parts of the coded picture there are: several in a progressive JPEG."""
    return content.count(_SCAN)


def most_pixels() -> float:
    """Pixels of the largest picture that is read: where Pillow sees a bomb."""
    return 2 * (Image.MAX_IMAGE_PIXELS or np.inf)


def open_jpeg(content: bytes) -> Jpeg | None:
    """Looks at the header; None where Pillow has to decide: not a JPEG, odd colours."""
    if not is_jpeg(content):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
    except (ValueError, KeyError):  # a sampling of colours that it has no name for
        return None
    if colours not in ("YCbCr", "Gray"):
        return None
    if width * height > most_pixels():
        return None  # which Pillow refuses
    # Damage is to be met as such, whatever part of the file is used.
    whole = content.endswith(_END) and _is_one_scan(content)
    if not whole and count_scans(content) > MOST_SCANS:
        return None
    return Jpeg(content, width, height, _height_at(content) if whole else 0)


def _is_one_scan(content: bytes) -> bool:
    """Whether no marker but those of restarts stands between the scan and the end."""
    scan = np.frombuffer(content, np.uint8)[content.find(_SCAN) + 2 : -2]
    after = scan[1:][scan[:-1] == 0xFF]
    return bool(((after == 0) | ((after >= 0xD0) & (after <= 0xD7))).all())


def _height_at(content: bytes) -> int:
    """Where the height stands in the header of a sequential JPEG; 0: it is another."""
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
    """Marker and place of each segment before the coded picture."""
    place = 2
    for _ in range(_MOST_SEGMENTS):
        if place + 9 >= len(content) or content[place] != 0xFF:
            return
        marker = content[place + 1]
        if marker == 0xFF:  # a filler
            place += 1
            continue
        if marker == _SCAN[1]:
            return
        yield marker, place
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
