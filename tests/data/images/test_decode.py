"""Decoded pixels of every colour mode."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vl_ltr_jax.data.images.decode import as_image, decode_image
from vl_ltr_jax.data.images.jpeg import open_jpeg

GOLDEN = Path(__file__).parents[2] / "golden" / "images"


@pytest.mark.parametrize(
    "file", ["cmyk_413x300.jpg", "gray_333x500.png", "palette_180x240.png",
             "rgba_389x257.png", "tiny_40x23.png"]
)  # fmt: skip
def test_every_colour_mode_becomes_the_golden_rgb(file):
    """Blending alpha over white moves rgba; dropping Adobe's inversion moves cmyk."""
    golden = np.load(GOLDEN / f"{file}.npz")["rgb_uint8"]
    np.testing.assert_array_equal(
        as_image(decode_image((GOLDEN / file).read_bytes(), file)), golden
    )


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_fast_jpeg_decoding_equals_pillow(mode, options):
    """fastdct or fastupsample of simplejpeg moves pixels by 4 on average."""
    noise = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(file, "JPEG", **options)
    decoded = open_jpeg(file.getvalue()).rows(37)
    np.testing.assert_array_equal(decoded, Image.open(file).convert("RGB"))


def test_palette_with_transparency_gives_its_colours_without_warning(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    image = Image.fromarray(noise).quantize(16)
    image.save(tmp_path / "x.png", transparency=bytes(range(16)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rgb = as_image(decode_image((tmp_path / "x.png").read_bytes(), "x"))
    np.testing.assert_array_equal(rgb, image.convert("RGB"))


def test_png_named_jpg(tmp_path):
    Image.new("RGB", (3, 2), (1, 2, 3)).save(tmp_path / "x.jpg", "PNG")
    assert as_image(decode_image((tmp_path / "x.jpg").read_bytes(), "x")).size == (3, 2)
