"""Parts of JPEGs: Pillow's pixels for every file and box."""

import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from vl_ltr_jax.data.images import jpeg
from vl_ltr_jax.data.images.decode import ImageReadError, decode_image
from worlds.sound_images import photograph


def by_pillow(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def check_part(content, box):
    """Checks that a box has Pillow's pixels, or fails where Pillow fails."""
    x0, y0, x1, y1 = box
    try:
        expected = by_pillow(content)[y0:y1, x0:x1]
    except OSError:
        with pytest.raises(ImageReadError, match="x.jpg"):
            decode_image(content, "x.jpg").crop(box)
        return
    part = decode_image(content, "x.jpg").crop(box)
    np.testing.assert_array_equal(np.asarray(part), expected)


KINDS = {
    "4:2:0": {"subsampling": 2},
    "4:2:2": {"subsampling": 1},
    "4:4:4": {"subsampling": 0},
    "grey": {"mode": "L"},
    "progressive": {"progressive": True},
    "optimised": {"optimize": True, "quality": 98},
    "restarts": {"restart_marker_rows": 1},
    "noise after the end": {"end": b"\0\0camera"},
    "with an embedded profile": {"icc_profile": b"p" * 70_000},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bottom", [1, 15, 16, 17, 33, 100, 229, 230])
def test_every_part_has_the_pixels_of_the_whole(kind, bottom):
    """A margin of 0 moves the last rows of 4:2:0 by the filter for colours."""
    options = dict(KINDS[kind])
    end = options.pop("end", b"")
    check_part(photograph(**options) + end, (11, bottom // 2, 139, bottom))


@pytest.mark.parametrize("horizontal", [1, 2, 4])
@pytest.mark.parametrize("vertical", [1, 2, 4])
def test_any_sampling_of_colours(horizontal, vertical):
    """Pillow writes three; a patch of the header gives others, and noise."""
    content = bytearray(photograph((192, 256), subsampling=0))
    content[content.index(b"\xff\xc0") + 11] = horizontal << 4 | vertical
    check_part(bytes(content), (0, 0, 192, 70))


def test_rows_below_are_not_decoded(monkeypatch):
    """Breaks the speed: a third of the picture needs little more than its rows."""
    heights = []
    decode = simplejpeg.decode_jpeg

    def count(content, *arguments, **options):
        heights.append(simplejpeg.decode_jpeg_header(content)[0])
        return decode(content, *arguments, **options)

    monkeypatch.setattr(jpeg.simplejpeg, "decode_jpeg", count)
    exif = Image.Exif()
    exif[0x0112] = 6  # the right of the turned picture is the top of the file
    for options, box in (
        ({}, (0, 0, 40, 200)),
        ({"progressive": True}, (0, 0, 40, 200)),
        ({"exif": exif}, (400, 0, 600, 40)),
    ):
        decode_image(photograph((40, 600), **options), "x").crop(box)
    assert heights == [216, 600, 216]


def test_filling_between_segments_is_passed_over():
    """Breaks if 0xFF before a marker, which the format allows, ends the reading."""
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    content = photograph(exif=exif)
    filled = content[:2] + b"\xff\xff" + content[2:]
    assert jpeg.metadata(filled) == jpeg.metadata(content)
    assert jpeg.metadata(content)["exif"]
    check_part(filled, (0, 0, 40, 20))


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_file_cut_short_fails_for_every_part(share):
    """Broken by a look at the header alone: the top of the picture is complete."""
    content = photograph((64, 400), quality=95)
    cut = content[: int(share * len(content))]
    with pytest.raises(ImageReadError, match="x.jpg"):
        decode_image(cut, "x.jpg").crop((0, 0, 64, 8))


@pytest.mark.parametrize("seed", range(6))
def test_damaged_pixels_are_those_of_pillow(seed):
    """Bytes written over: pixels as of Pillow, or an error where Pillow has one."""
    content = bytearray(photograph((64, 300), quality=90))
    rng = np.random.default_rng(seed)
    start = content.index(b"\xff\xda") + 20
    for place in rng.integers(start, len(content) - 2, 3):
        content[place] = rng.integers(0, 255)
    for bottom in (40, 300):
        check_part(bytes(content), (0, 0, 64, bottom))


@pytest.mark.parametrize(
    "marker", [b"\xff\xd8", b"\xff" * 40, b"\xff\xd9", b"\xff\xc4"]
)
@pytest.mark.parametrize("bottom", [40, 200, 400])
def test_a_marker_within_the_scan_is_found_above_and_below_it(marker, bottom):
    """A decoder that stops there fills what follows with grey and does not tell."""
    content = bytearray(photograph((64, 400), quality=90))
    scan = content.index(b"\xff\xda")
    place = scan + (len(content) - scan) // 5
    content[place : place + len(marker)] = marker
    check_part(bytes(content), (0, 0, 64, bottom))
