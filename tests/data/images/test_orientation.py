"""Pictures as viewers show them, or as they are stored: alike for every format."""

import dataclasses
import io
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from vl_ltr_jax.commands import check_data
from vl_ltr_jax.data.images.decode import as_image, asks_for_turn, decode_image, to_rgb
from vl_ltr_jax.data.images.transforms import eval_transform, train_transform
from vl_ltr_jax.recognizer.recognizer import Recognizer
from vl_ltr_jax.run import inputs as run_inputs
from worlds.checked_world import config
from worlds.paper_world import resolved
from worlds.small_recognizer import make
from worlds.sound_images import NOISE, RGB, encoded, photograph

FORMATS = {
    "jpeg": ("JPEG", {"quality": 90}),
    "progressive": ("JPEG", {"progressive": True}),
    "grey": ("JPEG", {}),
    "cmyk": ("JPEG", {}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {"lossless": True}),
    "tiff": ("TIFF", {}),
    "packed tiff": ("TIFF", {"compression": "tiff_lzw"}),
    "16-bit tiff": ("TIFF", {}),
    "avif": ("AVIF", {"quality": 90}),
}
SIXTEEN = Image.fromarray(NOISE[..., :2].copy().view(np.uint16)[..., 0])
MODES = {"grey": RGB.convert("L"), "cmyk": RGB.convert("CMYK"), "16-bit tiff": SIXTEEN}


def tagged(kind, tag):
    """Returns a file of a format with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = tag
    name, options = FORMATS[kind]
    return encoded(MODES.get(kind, RGB), name, exif=exif, **options)


def by_viewer(content):
    """Returns the picture as viewers show it, by Pillow."""
    with Image.open(io.BytesIO(content)) as image:
        return to_rgb(ImageOps.exif_transpose(image), "stored")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("tag", range(1, 9))
def test_every_format_is_turned_as_exif_transpose_does(kind, tag):
    """Breaks when a TIFF, which Pillow turns as it loads it, is turned again."""
    content = tagged(kind, tag)
    expected = by_viewer(content)
    decoded = decode_image(content, "x")
    assert decoded.size == expected.size == ((37, 53) if tag > 4 else (53, 37))
    np.testing.assert_array_equal(as_image(decoded), expected)
    assert asks_for_turn(content) == (tag > 1)
    with Image.open(io.BytesIO(content)) as image:
        np.testing.assert_array_equal(to_rgb(image), expected)
    loaded = Image.open(io.BytesIO(content))
    loaded.load()
    np.testing.assert_array_equal(to_rgb(loaded), expected)
    np.testing.assert_array_equal(to_rgb(loaded.copy()), expected)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("tag", range(1, 9))
def test_stored_pixels_do_not_depend_on_the_tag(kind, tag):
    """Breaks when Pillow's own turn of a TIFF is not undone."""
    stored = as_image(decode_image(tagged(kind, tag), "x", "stored"))
    plain = as_image(decode_image(tagged(kind, 1), "x", "stored"))
    np.testing.assert_array_equal(stored, plain)


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize(
    "options",
    [{"subsampling": 2}, {"progressive": True}, {"mode": "L"}, {"mode": "CMYK"}],
    ids=str,
)
def test_training_crops_are_those_of_the_turned_picture(tag, options):
    """Breaks when a box of the turned picture is cut from the rows of the stored."""
    exif = Image.Exif()
    exif[0x0112] = tag
    content = photograph((97, 150), exif=exif, **options)
    upright = by_viewer(content)
    train, evaluate = train_transform("gentle", 24), eval_transform("vl_ltr", 24)
    for seed in range(5):
        decoded = decode_image(content, "x")
        pixels = train(decoded, np.random.default_rng(seed))
        expected = train(upright, np.random.default_rng(seed))
        np.testing.assert_array_equal(pixels, expected)
    np.testing.assert_array_equal(evaluate(decoded), evaluate(upright))
    box = (3, 11, 60, 71)
    np.testing.assert_array_equal(decoded.crop(box), upright.crop(box))


def test_an_orientation_in_xmp_counts_where_exif_has_none():
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    for name in ("JPEG", "WEBP"):
        content = encoded(RGB, name, xmp=xmp)
        turned = as_image(decode_image(content, "x"))
        assert turned.size == (37, 53)
        np.testing.assert_array_equal(turned, by_viewer(content))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("exif", [b"nonsense", b"II*\0\xff\xff\xff\x7f"])
def test_broken_exif_turns_nothing(kind, exif):
    content = encoded(RGB, kind, exif=b"Exif\0\0" + exif)
    plain = as_image(decode_image(content, "x", "stored"))
    np.testing.assert_array_equal(as_image(decode_image(content, "x")), plain)


@pytest.mark.parametrize("place", [33, -12])
def test_sound_pixels_of_a_png_with_long_metadata(place):
    """Breaks when Pillow's limits of metadata refuse the picture."""
    plain = tagged("png", 6)
    text = b"zTXtcomment\0\0" + zlib.compress(b"x" * 3 * 2**20)
    chunk = (len(text) - 4).to_bytes(4) + text + zlib.crc32(text).to_bytes(4)
    content = plain[:place] + chunk + plain[place:]
    np.testing.assert_array_equal(
        as_image(decode_image(content, "x")), as_image(decode_image(plain, "x"))
    )


def test_a_recognizer_turns_as_its_card_says(tmp_path):
    """Files, PIL images and arrays; breaks when the card is not asked."""
    recognizer = make("linear")
    content = tagged("png", 6)
    path = tmp_path / "x.png"
    path.write_bytes(content)
    stored = np.asarray(as_image(decode_image(content, "x", "stored")))
    upright = np.asarray(by_viewer(content))
    for choice, pixels in (("exif", upright), ("stored", stored)):
        card = dataclasses.replace(recognizer.card, orientation=choice)
        tokenizer = recognizer.tokenizer_directory
        recognizer = Recognizer(card, recognizer.arrays, tokenizer=tokenizer)
        expected = recognizer.embed_images(pixels)
        assert (expected != recognizer.embed_images(stored[::-1])).any()
        for picture in (path, Image.open(path)):
            np.testing.assert_array_equal(recognizer.embed_images(picture), expected)


@pytest.mark.parametrize(
    ("choice", "size", "words"),
    [("exif", (37, 53), "turned so"), ("stored", (53, 37), "left as stored")],
)
def test_a_data_set_is_turned_as_its_key_says_and_the_check_tells(
    tmp_path, choice, size, words
):
    """Breaks when the key does not reach a split, or the check is silent of it."""
    (tmp_path / "labels.txt").write_text("one 0\n")
    files = {"train": ("jpeg", 6), "val": ("tiff", 6), "test": ("png", 1)}
    for split, (kind, tag) in files.items():
        content = tagged(kind, tag)
        (tmp_path / f"{split}.img").write_bytes(content)
        (tmp_path / f"own_{split}.txt").write_text(f"{split}.img 0\n")
    chosen = config(tmp_path, name="own", texts="none", orientation=choice)
    data = run_inputs.read_data(chosen)
    assert data.train.read(0).size == data.val.read(0).size == size
    assert data.train.select(np.array([0])).read(0).size == size
    (fact,) = (f for f in check_data.check_data(chosen).facts if "EXIF" in f)
    assert "a turn of 2" in fact and words in fact


@pytest.mark.parametrize("name", ["imagenet_lt", "places_lt", "inat18"])
def test_benchmarks_keep_the_pixels_that_are_stored(name):
    """The published accuracies rest on them, by the authors' loader."""
    assert resolved(name).data.orientation == "stored"
