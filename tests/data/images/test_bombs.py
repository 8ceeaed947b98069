"""Sizes that no machine has, claimed or packed, are refused before they are met."""

import gzip
import io
import json
import os
import resource
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from vl_ltr_jax.data import root
from vl_ltr_jax.data.images import jpeg
from vl_ltr_jax.data.images.decode import (
    ImageReadError,
    as_image,
    decode_image,
    read_content,
)
from vl_ltr_jax.data.images.jpeg import MOST_SCANS
from vl_ltr_jax.data.sources import dataset, inat18, lists
from vl_ltr_jax.data.text import class_names, corpus, files
from vl_ltr_jax.data.text.files import ArchiveError
from worlds import data_damage as damage
from worlds.sound_images import RGB, SOUND, encoded, several

PIXELS = "claims more pixels than the 178956970"
GIGABYTE = 2**30


@pytest.fixture(autouse=True)
def little_memory():
    """Two gigabytes more than there are: a claim of ten cannot be met."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2 * GIGABYTE, before[1]))
    with damage.no_hang():
        yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def patched(name, marker, offset, claim):
    content = SOUND[name]
    place = content.index(marker) + offset
    return content[:place] + claim + content[place + len(claim) :]


def png(width, height, rows=b""):
    def chunk(kind, data):
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def tiff(width, height):
    """Of one strip that is nowhere."""
    tags = ((256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8))
    tags = (*tags, (277, 1), (278, height), (279, 2**31))
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + rows + bytes(4)


def webp(width, height):
    """Of the extended kind, whose header stands before the picture."""
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<II", 10, 2) + sides + SOUND["webp"][12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize(
    "content",
    [
        png(100_000, 100_000),
        png(2**31 - 1, 2**31 - 1),
        png(20_000, 20_000, bytes(20_000 * 601)),
        patched("jpeg", b"\xff\xc0", 5, struct.pack(">HH", 65535, 65535)),
        patched("progressive", b"\xff\xc2", 5, struct.pack(">HH", 65535, 65535)),
        patched("moving gif", b"GIF8", 6, struct.pack("<HH", 65535, 65535)),
        patched("bmp", b"BM", 18, struct.pack("<ii", 60_000, 60_000)),
        b"P6 100000 100000 255\n" + bytes(100),
        tiff(100_000, 100_000),
    ],
    ids=("png", "largest png", "packed png", "jpeg", "progressive jpeg", "gif", "bmp")
    + ("ppm", "tiff"),
)
def test_pictures_of_gigabytes_are_refused_by_their_headers(content):
    """Broken by: a decoder that makes room for what a header claims."""
    with pytest.raises(ImageReadError, match=f"x.jpg: .*{PIXELS}"):
        as_image(decode_image(content, "x.jpg"))


@pytest.mark.parametrize("side", [16_384, 2**24])
def test_webp_of_gigabytes_is_refused(side):
    with pytest.raises(ImageReadError, match=f"x.webp: (.*{PIXELS}|OSError|Mem)"):
        as_image(decode_image(webp(side, min(side, 2**8 * 2**8 - 1)), "x.webp"))


def with_text(keyword):
    """A PNG with 8 MiB of compressed text."""
    data = b"zTXt" + keyword + b"\0\0" + zlib.compress(bytes(8 * 2**20), 9)
    size, checksum = (
        struct.pack(">I", len(data) - 4),
        struct.pack(">I", zlib.crc32(data)),
    )
    return SOUND["png"][:33] + size + data + checksum + SOUND["png"][33:]


def test_comments_of_a_png_are_not_unpacked_without_end(monkeypatch):
    """Breaks when limits are raised so that the text is unpacked: it is left out."""
    sizes = []
    unpack = PngImagePlugin._safe_zlib_decompress
    monkeypatch.setattr(
        PngImagePlugin,
        "_safe_zlib_decompress",
        lambda packed: sizes.append(len(result := unpack(packed))) or result,
    )
    found = as_image(decode_image(with_text(b"comment"), "x.png"))
    np.testing.assert_array_equal(found, as_image(decode_image(SOUND["png"], "x.png")))
    assert not sizes
    with pytest.raises(ImageReadError, match="x.png: .*Decompressed data too large"):
        decode_image(with_text(b"Raw profile type exif"), "x.png")


def test_a_jpeg_of_endless_scans_is_refused():
    """Each takes 20 bytes, and goes over the whole picture."""
    content = SOUND["progressive"]
    last = content.rindex(b"\xff\xda")
    bomb = content[:last] + content[last:-2] * (MOST_SCANS + 1) + content[-2:]
    with pytest.raises(
        ImageReadError, match=f"x.jpg: a JPEG of more than {MOST_SCANS}"
    ):
        decode_image(bomb, "x.jpg")
    assert as_image(decode_image(content, "x.jpg")).size == RGB.size


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"P6 #" + bytes(2**24) + b"\n1 1 255 abc", "header is not in its first 16384"),
        (
            b"P6 8 8#\n8 255 #" + bytes(2**24) + b"\n",
            "header is not in its first 16384",
        ),
        (b"P3 1 1 255\n" + b"#\n" * 2**20 + b"1 2 3\n", "comments among its pixels"),
        (b"P2 1 1 255\n" + b" " * 2**24 + b"1\n", "of text with more than 16777216"),
    ],
    ids=("header", "split number", "pixels", "blanks"),
)
def test_portable_maps_of_endless_comments_are_refused(monkeypatch, content, reason):
    """Broken by: Pillow, which takes a second for some kilobytes of them."""
    monkeypatch.setattr(Image, "open", lambda *given, **options: pytest.fail("opened"))
    with pytest.raises(ImageReadError, match=f"x.ppm: a portable map .*{reason}"):
        decode_image(content, "x.ppm")


@pytest.mark.parametrize(
    "content",
    [
        b"P6\n# by an editor\n1 1\n# again\n255\nab#",
        b"P3\n#\n1 1 255\n 97 98\t35\n",
    ],
)
def test_comments_of_headers_are_passed_over(content):
    assert as_image(decode_image(content, "x.ppm")).getpixel((0, 0)) == (97, 98, 35)


def test_fillers_of_a_jpeg_take_no_time():
    """Broken by: a step for each of them; those that are many leave no rows out."""
    sound = SOUND["jpeg"]
    assert jpeg.open_jpeg(sound[:2] + b"\xff" * 99 + sound[2:]).height_at
    found = jpeg.open_jpeg(sound[:2] + b"\xff" * 2**20 + sound[2:])
    assert not found.height_at
    whole = jpeg.open_jpeg(sound).rows(RGB.height)
    np.testing.assert_array_equal(found.rows(RGB.height), whole)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_of_moving_pictures_the_first_is_taken(kind):
    found = as_image(decode_image(several(kind, lossless=True), "x"))
    first = Image.open(io.BytesIO(encoded(RGB, kind, lossless=True))).convert("RGB")
    np.testing.assert_array_equal(found, first)


def sparse(path, size):
    """A file of so many zeros that takes no disk."""
    with open(path, "wb") as file:
        file.truncate(size)
    return path


def test_image_files_of_gigabytes_are_not_read(tmp_path):
    sparse(tmp_path / "x.jpg", 10 * GIGABYTE)
    for read in (
        lambda: dataset.read_listed(root.Root(tmp_path), "x.jpg", "x.jpg (list:1)"),
        lambda: read_content(tmp_path / "x.jpg", "x.jpg (list:1)"),
    ):
        with pytest.raises(ImageReadError, match=r"x.jpg \(list:1\): it has .* bytes"):
            read()


def test_lists_texts_and_labels_of_gigabytes_are_not_read(tmp_path):
    (tmp_path / "wiki").mkdir()
    for name, read in {
        "labels.txt": lambda: class_names.read_class_names(tmp_path),
        "categories.json": lambda: class_names.read_class_names(tmp_path, "inat18"),
        "wiki/desc_0.txt": lambda: corpus.read_texts(tmp_path, 1),
    }.items():
        sparse(tmp_path / name, 10 * GIGABYTE)
        with pytest.raises(root.FileError, match=f"{name} cannot be read: it has 107"):
            read()
    (tmp_path / "labels.txt").write_text("a 0\n")
    (tmp_path / "categories.json").write_text('[{"id": 0, "name": "a"}]')
    for name, read in {
        "x_train.txt": lambda: lists.read_image_list(tmp_path, "x"),
        "train2018.json": lambda: inat18.read_inat18(tmp_path),
    }.items():
        sparse(tmp_path / name, 10 * GIGABYTE)
        with pytest.raises(root.FileError, match=f"{name} cannot be read: it has 107"):
            read()


def test_texts_have_a_limit_together(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGEST_TOTAL", 25)
    (tmp_path / "wiki").mkdir()
    for label in range(3):
        (tmp_path / f"wiki/desc_{label}.txt").write_text("x" * 10)
    assert len(corpus.read_texts(tmp_path, 2)) == 2
    with pytest.raises(ValueError, match="desc_2.txt: .* 30 bytes, over the 25"):
        corpus.read_texts(tmp_path, 3)


def test_more_classes_than_anyone_has_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(class_names, "MOST_CLASSES", 3)
    (tmp_path / "labels.txt").write_text("a 0\nb 1\nc 2\nd 3\n")
    with pytest.raises(ValueError, match="labels.txt:1 is the first of 4 classes"):
        class_names.read_class_names(tmp_path)


@pytest.mark.parametrize("depth", [200, 100_000])
@pytest.mark.parametrize("name", ["train2018.json", "categories.json"])
def test_json_nested_without_end_is_refused(tmp_path, depth, name):
    """Broken by: a RecursionError, of reading it or of showing it."""
    (tmp_path / "categories.json").write_text('[{"id": 0, "name": "a"}]')
    (tmp_path / name).write_text("[" * depth + "]" * depth)
    with pytest.raises(ValueError, match=f"{name}.*nested more than"):
        inat18.read_inat18(tmp_path)


def test_a_zip_of_zeros_is_refused_by_what_it_unpacks_to(tmp_path):
    """Some kilobytes that unpack to as many megabytes."""
    with zipfile.ZipFile(tmp_path / "wiki.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("desc_0.txt", "w") as member:
            for _ in range(65):
                member.write(bytes(2**20))
    with pytest.raises(ArchiveError, match=r"wiki.zip:desc_0.txt has over 67108864"):
        corpus.read_texts(tmp_path, 1)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_make_room_for_claims_are_refused(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "wiki.zip", "w", method) as archive:
        archive.writestr("desc_0.txt", "A text.")
    with pytest.raises(
        ArchiveError, match=f"desc_0.txt is compressed by method {method}"
    ):
        corpus.read_texts(tmp_path, 1)


def header(name, size, kind=b"0"):
    """Of a member of a tar, of any size."""
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header("desc_0.txt", 10 * GIGABYTE), "cannot be read|past the"),
        (header("movie.avi", 10 * GIGABYTE) + bytes(2**20), "cannot be read|past the"),
        (header("a", 10 * GIGABYTE, b"L") + bytes(2**20), "claims a header of 107"),
        (header("a", 10 * GIGABYTE, b"x") + bytes(2**20), "claims a header of 107"),
        (header("a", -1024) + header("desc_0.txt", 0), "past the|cannot be read"),
        (header("a", -1024, b"x") + header("desc_0.txt", 0), "claims a header of"),
    ],
    ids=("text", "other member", "long name", "pax", "backwards", "pax back"),
)
@pytest.mark.parametrize("packed", [False, True])
def test_headers_of_tars_are_not_believed(tmp_path, content, message, packed):
    """Broken by: tarfile, which reads a header at once and goes back for ever."""
    name = "wiki.tar.gz" if packed else "wiki.tar"
    content = content.ljust(2**11, b"\0")
    (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(ArchiveError, match=f"{name}.*({message})"):
        corpus.read_texts(tmp_path, 1)


def test_archives_have_a_limit_of_members(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MOST_MEMBERS", 3)
    for name in ("wiki.zip", "wiki.tar"):
        file = io.BytesIO()
        if name == "wiki.zip":
            with zipfile.ZipFile(file, "w") as archive:
                for number in range(4):
                    archive.writestr(f"{number}.txt", "")
        else:
            file.write(b"".join(header(f"{number}.txt", 0) for number in range(4)))
        (tmp_path / name).write_bytes(file.getvalue())
        with pytest.raises(ArchiveError, match=f"{name} has more than 3 members"):
            corpus.read_texts(tmp_path, 1)
        os.unlink(tmp_path / name)


def test_a_row_of_megabytes_is_named_in_few_words(tmp_path):
    (tmp_path / "labels.txt").write_text("a 0\n")
    (tmp_path / "x_train.txt").write_text("y" * 10_000_000 + " 0\n")
    for split in ("val", "test"):
        (tmp_path / f"x_{split}.txt").write_text("0.png 0\n")
    with pytest.raises(
        dataset.ListError, match="x_train.txt:1: no image 'yyy"
    ) as raised:
        lists.read_image_list(tmp_path, "x")
    assert len(str(raised.value)) < 1000
    content = {"images": [{"id": 1, "file_name": "0.png"}]}
    content["annotations"] = [{"image_id": [1], "category_id": 10**30}]
    (tmp_path / "train2018.json").write_text(json.dumps(content))
    (tmp_path / "categories.json").write_text('[{"id": 0, "name": "a"}]')
    with pytest.raises(dataset.ListError, match="unhashable"):
        inat18.read_inat18(tmp_path)
    content["annotations"] = [{"image_id": 1, "category_id": 10**30}]
    (tmp_path / "train2018.json").write_text(json.dumps(content))
    with pytest.raises(
        dataset.ListError, match="image id 1: '0.png' has category 1000"
    ):
        inat18.read_inat18(tmp_path)
    content["annotations"] = [{"image_id": 1, "category_id": "z" * 10**6}]
    (tmp_path / "train2018.json").write_text(json.dumps(content))
    with pytest.raises(dataset.ListError, match="has category zzz") as raised:
        inat18.read_inat18(tmp_path)
    assert len(str(raised.value)) < 1000
