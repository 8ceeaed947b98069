"""EXIF orientation: the turn between the pixels of a file and what a viewer shows.

Cameras store a picture as the sensor lies, with a tag that tells how to turn it.
VL-LTR and torchvision take the stored pixels, and so the published accuracies rest on
them. Viewers apply the tag, and people label what a viewer shows.
"""

from typing import Literal, TypeAlias

from PIL import Image

Orientation: TypeAlias = Literal["exif", "stored"]
Box: TypeAlias = tuple[int, int, int, int]  # left, top, right, bottom
Turn: TypeAlias = Image.Transpose

_TAG = 0x0112
_TURNS = {
    2: Turn.FLIP_LEFT_RIGHT,
    3: Turn.ROTATE_180,
    4: Turn.FLIP_TOP_BOTTOM,
    5: Turn.TRANSPOSE,
    6: Turn.ROTATE_270,
    7: Turn.TRANSVERSE,
    8: Turn.ROTATE_90,
}
_INVERSES = {turn: turn for turn in _TURNS.values()} | {
    Turn.ROTATE_90: Turn.ROTATE_270,
    Turn.ROTATE_270: Turn.ROTATE_90,
}
# From a turned picture back to the file: True for exchanged axes, then True for a
# horizontal, and for a vertical axis of the file that runs backwards.
_BACK: dict[Turn | None, tuple[bool, bool, bool]] = {
    None: (False, False, False),
    Turn.FLIP_LEFT_RIGHT: (False, True, False),
    Turn.ROTATE_180: (False, True, True),
    Turn.FLIP_TOP_BOTTOM: (False, False, True),
    Turn.TRANSPOSE: (True, False, False),
    Turn.ROTATE_270: (True, False, True),
    Turn.TRANSVERSE: (True, True, True),
    Turn.ROTATE_90: (True, True, False),
}


def read_turn(image: Image.Image) -> Turn | None:
    """Returns the turn that a picture's metadata ask for, or None.

    Broken metadata ask for no turn: viewers ignore them too.
    """
    try:
        return _TURNS.get(image.getexif().get(_TAG, 1))
    except Exception:  # Pillow raises SyntaxError, struct.error and others
        return None


def turn_of_metadata(metadata: dict[str, bytes]) -> Turn | None:
    """Returns the turn that metadata under Pillow's names ask for, or None."""
    if not metadata:
        return None
    carrier = Image.new("1", (1, 1))
    carrier.info.update(metadata)
    return read_turn(carrier)


def turned(image: Image.Image, turn: Turn | None) -> Image.Image:
    """Returns the picture after a turn."""
    return image if turn is None else image.transpose(turn)


def unturned(image: Image.Image, turn: Turn | None) -> Image.Image:
    """Returns the picture before a turn."""
    return image if turn is None else image.transpose(_INVERSES[turn])


def turned_size(size: tuple[int, int], turn: Turn | None) -> tuple[int, int]:
    """Returns width and height after a turn."""
    return size[::-1] if _BACK[turn][0] else size


def stored_box(box: Box, size: tuple[int, int], turn: Turn | None) -> Box:
    """Returns the box of the file's pixels that a turn brings into a box.

    Args:
      box: part of the turned picture.
      size: width and height of the file's picture.
      turn: change from the file to the picture.
    """
    exchanged, backwards, upwards = _BACK[turn]
    x0, y0, x1, y1 = box
    if exchanged:
        x0, y0, x1, y1 = y0, x0, y1, x1
    if backwards:
        x0, x1 = size[0] - x1, size[0] - x0
    if upwards:
        y0, y1 = size[1] - y1, size[1] - y0
    return x0, y0, x1, y1
