"""Image files of all formats: the first frame, the full range, a bound on pixels."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from vl_ltr_jax.data import root
from vl_ltr_jax.data.images.decode import (
    ImageReadError,
    as_image,
    decode_image,
    read_content,
)
from vl_ltr_jax.data.sources import lists
from worlds.sound_images import RGB, SOUND, encoded, several

TOO_MANY_BYTES = 10 * 2**30


def claim(name, marker, offset, size):
    """A sound image whose header claims another size."""
    content = SOUND[name]
    place = content.index(marker) + offset
    return content[:place] + size + content[place + len(size) :]


def png(width, height):
    def chunk(kind, data):
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "content",
    [
        png(100_000, 100_000),
        claim("jpeg", b"\xff\xc0", 5, struct.pack(">HH", 65535, 65535)),
        claim("progressive", b"\xff\xc2", 5, struct.pack(">HH", 65535, 65535)),
        claim("moving gif", b"GIF8", 6, struct.pack("<HH", 65535, 65535)),
        claim("bmp", b"BM", 18, struct.pack("<ii", 60_000, 60_000)),
    ],
    ids=("png", "jpeg", "progressive", "gif", "bmp"),
)
def test_a_claim_of_gigabytes_is_refused_by_name(content):
    """Breaks if a decoder makes room for what a header claims."""
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


def sparse(path):
    """A file of many zeros that takes no disk."""
    with path.open("wb") as file:
        file.truncate(TOO_MANY_BYTES)


def test_files_of_gigabytes_are_not_read(tmp_path):
    sparse(tmp_path / "x.jpg")
    with pytest.raises(ImageReadError, match=r"x.jpg \(list:1\)"):
        read_content(tmp_path / "x.jpg", "x.jpg (list:1)")
    (tmp_path / "labels.txt").write_text("a 0\n")
    sparse(tmp_path / "x_train.txt")
    with pytest.raises(root.FileError, match="x_train.txt"):
        lists.read_image_list(tmp_path, "x")
