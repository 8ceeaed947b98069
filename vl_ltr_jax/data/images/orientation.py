"""EXIF orientation: the turn between the pixels of a file and what a viewer shows.

Cameras store a picture as the sensor lies, and beside it a tag of how to turn it.
VL-LTR and torchvision take the pixels as they are stored, on which the published
accuracies rest. Viewers apply the tag, and people label what a viewer shows.
"""

from typing import Literal, TypeAlias, get_args

from PIL import Image

Orientation: TypeAlias = Literal["exif", "stored"]
Box: TypeAlias = tuple[int, int, int, int]  # left, top, right, bottom
Turn: TypeAlias = Image.Transpose

ORIENTATIONS: tuple[str, ...] = get_args(Orientation)
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
# From a turned picture back to the file: are the axes exchanged, and which of the
# file's axes, horizontal and vertical, then run backwards.
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
    """Returns the turn that a picture's metadata ask for; None for none.

    Broken metadata ask for none: the pixels are sound, and viewers show them so.
    """
    try:
        return _TURNS.get(image.getexif().get(_TAG, 1))
    except Exception:  # Pillow raises SyntaxError, struct.error and others
        return None


def turn_of_metadata(metadata: dict[str, bytes]) -> Turn | None:
    """Returns the turn that metadata under Pillow's names ask for; None for none."""
    if not metadata:
        return None
    carrier = Image.new("1", (1, 1))
    carrier.info.update(metadata)
    return read_turn(carrier)


def turned(image: Image.Image, turn: Turn | None) -> Image.Image:
    """Returns the picture after a turn."""
    return image if turn is None else image.transpose(turn)


def unturned(image: Image.Image, turn: Turn | None) -> Image.Image:
    """Returns the picture that a turn has made this one of."""
    return image if turn is None else image.transpose(_INVERSES[turn])


def turned_size(size: tuple[int, int], turn: Turn | None) -> tuple[int, int]:
    """Returns width and height after a turn."""
    return size[::-1] if _BACK[turn][0] else size


def stored_box(box: Box, size: tuple[int, int], turn: Turn | None) -> Box:
    """Returns the box of the file's pixels that a turn brings into a box.

    Args:
      box: in the turned picture.
      size: width and height of the file's picture.
      turn: what is done to it.
    """
    exchanged, backwards, upwards = _BACK[turn]
    left, top, right, bottom = box
    if exchanged:
        left, top, right, bottom = top, left, bottom, right
    if backwards:
        left, right = size[0] - right, size[0] - left
    if upwards:
        top, bottom = size[1] - bottom, size[1] - top
    return left, top, right, bottom
