"""Image files of all formats and modes: golden pixels, and a bound on their number."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from vl_ltr_jax.data.images.decode import (
    ImageReadError,
    as_image,
    decode_image,
    read_content,
)
from worlds.golden import GOLDEN, load
from worlds.sound_images import RGB, SOUND, encoded, several

GOLDEN_FILES = [
    *("cmyk_413x300.jpg", "gray_333x500.png", "palette_180x240.png"),
    *("rgba_389x257.png", "tiny_40x23.png"),
]


@pytest.mark.parametrize("file", GOLDEN_FILES)
def test_every_colour_mode_becomes_the_golden_rgb(file):
    """Blending alpha over white moves rgba; dropping Adobe's inversion moves cmyk."""
    image = as_image(decode_image((GOLDEN / "images" / file).read_bytes(), file))
    np.testing.assert_array_equal(image, load(f"images/{file}.npz")["rgb_uint8"])


def test_palette_with_transparency_gives_its_colours():
    image = RGB.quantize(16)
    content = encoded(image, "PNG", transparency=bytes(range(16)))
    rgb = as_image(decode_image(content, "x"))
    np.testing.assert_array_equal(rgb, image.convert("RGB"))


@pytest.mark.parametrize(
    ("name", "marker", "offset", "size"),
    [
        ("jpeg", b"\xff\xc0", 5, struct.pack(">HH", 65535, 65535)),
        ("moving gif", b"GIF8", 6, struct.pack("<HH", 65535, 65535)),
    ],
)
def test_a_claim_of_gigabytes_is_refused_by_name(name, marker, offset, size):
    """Breaks if a decoder makes room for what a header claims."""
    place = SOUND[name].index(marker) + offset
    content = SOUND[name][:place] + size + SOUND[name][place + len(size) :]
    with pytest.raises(ImageReadError, match="x.jpg"):
        as_image(decode_image(content, "x.jpg"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xd8\xff",
        b"<!DOCTYPE html><html><body>404</body></html>",
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n%%EOF\n",
    ],
    ids=("empty", "start of a jpeg", "page", "heic", "program of Ghostscript"),
)
def test_a_file_of_another_kind_is_refused_by_name(content):
    with pytest.raises(ImageReadError, match="x.jpg"):
        as_image(decode_image(content, "x.jpg"))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_of_a_moving_picture_is_taken(kind):
    image = as_image(decode_image(several(kind, lossless=True), "x"))
    first = Image.open(io.BytesIO(encoded(RGB, kind, lossless=True))).convert("RGB")
    np.testing.assert_array_equal(image, first)


def test_16_bit_pictures_keep_their_range():
    """Breaks if Pillow converts them: it makes all of them white."""
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    content = encoded(Image.fromarray(values), "PNG")
    pixels = np.asarray(as_image(decode_image(content, "deep.png")))
    np.testing.assert_array_equal(pixels[:, :, 0], values >> 8)
    content = encoded(Image.fromarray(values.astype(np.float32)), "TIFF")
    with pytest.raises(ImageReadError, match="deep.tiff"):
        as_image(decode_image(content, "deep.tiff"))


def test_files_of_gigabytes_are_not_read(tmp_path):
    with (tmp_path / "x.jpg").open("wb") as file:
        file.truncate(10 * 2**30)  # takes no disk
    with pytest.raises(ImageReadError, match=r"x.jpg \(list:1\)"):
        read_content(tmp_path / "x.jpg", "x.jpg (list:1)")
