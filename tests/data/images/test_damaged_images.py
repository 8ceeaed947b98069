"""Damaged image files by the hundred: each is a picture, or refused by its name."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vl_ltr_jax.data.images.decode import ImageReadError, as_image, decode_image
from vl_ltr_jax.data.images.transforms import eval_transform, train_transform
from worlds import data_damage as damage
from worlds.file_damage import examples
from worlds.sound_images import SOUND

WHERE = "world/images/x.jpg (world_train.txt:7)"
TRAIN, EVAL = train_transform("plain", 16), eval_transform("vl_ltr", 16)


OTHERS = {
    "nothing": b"",
    "text": b"not a picture at all\n" * 9,
    "page": b"<!DOCTYPE html><html><body>404</body></html>",
    "vector": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "program": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n%%EOF\n",
    "archive": b"PK\x03\x04" + bytes(60),
    "start of a jpeg": b"\xff\xd8\xff",
}


def picture(content):
    """The RGB picture, or None where it is refused; training and evaluation agree."""
    found = damage.outcome(lambda: decode_image(content, WHERE), WHERE)
    if found is None:
        return None
    whole = damage.outcome(lambda: as_image(found), WHERE)
    for transform in (EVAL, lambda image: TRAIN(image, np.random.default_rng(0))):
        pixels = damage.outcome(lambda: transform(found), WHERE)  # noqa: B023
        assert pixels is None or pixels.shape == (16, 16, 3)
    if whole is not None:
        assert whole.mode == "RGB" and whole.size == found.size and min(whole.size) > 0
    return whole


@pytest.mark.parametrize("name", SOUND)
def test_what_is_damaged_below_is_sound(name):
    found = picture(SOUND[name])
    assert (found is None) == (name == "float tiff")
    assert found is None or found.size in ((53, 37), (37, 53), (3, 2))


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_picture_is_refused(name):
    assert picture(OTHERS[name]) is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), "not an image of a format"),
        (OTHERS["page"], "not an image of a format"),
    ],
    ids=("zero bytes", "heic", "page"),
)
def test_what_is_wrong_is_named(content, words):
    with pytest.raises(ImageReadError, match=words):
        decode_image(content, WHERE)


def test_no_program_draws_pictures():
    """Pillow has Ghostscript draw an EPS, where that is installed."""
    with pytest.raises(ImageReadError, match="not an image of a format that is read"):
        decode_image(OTHERS["program"], WHERE)


@examples(330)
@given(data=st.data(), name=st.sampled_from(sorted(SOUND)))
def test_damaged_images(data, name):
    picture(data.draw(damage.damaged_bytes(SOUND[name])))


# Where width and height stand, and how: PNG, JPEG, GIF, BMP.
HEADERS = {
    "png": (SOUND["png"], SOUND["png"].index(b"IHDR") + 4, ">II"),
    "jpeg": (SOUND["jpeg"], SOUND["jpeg"].index(b"\xff\xc0") + 5, ">HH"),
    "progressive": (
        SOUND["progressive"],
        SOUND["progressive"].index(b"\xff\xc2") + 5,
        ">HH",
    ),
    "gif": (SOUND["moving gif"], 6, "<HH"),
    "bmp": (SOUND["bmp"], 18, "<ii"),
}
SIDES = (0, 1, 36, 37, 38, 53, 54, 255, 9000, 32767, 65535, 2**24, 2**31 - 1, 2**32 - 1)


@examples(120)
@given(
    name=st.sampled_from(sorted(HEADERS)),
    width=st.sampled_from(SIDES),
    height=st.sampled_from(SIDES),
)
def test_sizes_that_headers_claim(name, width, height):
    content, place, form = HEADERS[name]
    most = {"H": 0xFFFF, "I": 2**32 - 1, "i": 2**31 - 1}[form[1]]
    claim = struct.pack(form, min(width, most), min(height, most))
    if width * height > 20e6 and width * height < 2e8:
        return  # allowed, and slow
    picture(content[:place] + claim + content[place + len(claim) :])
