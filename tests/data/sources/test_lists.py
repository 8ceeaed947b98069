"""Lists, JSON files and image files: what is read, and what each fault says."""

import io
import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vl_ltr_jax.data.images.decode import ImageReadError, as_image, decode_image
from vl_ltr_jax.data.images.jpeg import open_jpeg
from vl_ltr_jax.data.sources import dataset, inat18
from vl_ltr_jax.data.sources.lists import read_image_list

GOLDEN = Path(__file__).parents[2] / "golden" / "images"


def write_image(path, colour=(10, 20, 30), size=(9, 7)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def write_lists(root, name="toy", **rows):
    for split, lines in rows.items():
        (root / f"{name}_{split}.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture
def root(tmp_path):
    """Three classes; class 0 has two training images, classes 1 and 2 have one."""
    (tmp_path / "labels.txt").write_text("cat 0\nsea_lion 1\ndog 2\n")
    (tmp_path / "wiki").mkdir()
    for label in range(3):
        (tmp_path / "wiki" / f"desc_{label}.txt").write_text(f"Text {label}.")
    for number in range(8):
        write_image(tmp_path / f"pictures/a {number % 2}/{number}.png", (number, 0, 0))
    train = [f"pictures/a {n % 2}/{n}.png {label}" for n, label in enumerate("0012")]
    write_lists(
        tmp_path,
        train=train,
        val=["pictures/a 0/4.png 1", "pictures/a 1/5.png 2"],
        test=["pictures/a 0/6.png 0", "pictures/a 1/7.png 1"],
    )
    return tmp_path


def test_image_lists(root):
    data = read_image_list(root, "toy")
    assert data.name == "toy"
    assert data.class_names == ("cat", "sea lion", "dog")
    assert data.class_texts == ("Text 0.", "Text 1.", "Text 2.")
    assert data.train.labels.tolist() == [0, 0, 1, 2]
    assert data.train_counts.tolist() == [2, 1, 1]
    assert (len(data.val), len(data.test)) == (2, 2)
    assert data.train.read(3).getpixel((0, 0)) == (3, 0, 0)
    where = f"{root}/pictures/a 1/3.png ({root}/toy_train.txt:4)"
    assert data.train.describe(3) == where


def test_select_keeps_labels_pixels_and_names_together(root):
    data = read_image_list(root, "toy")
    chosen = data.train.select(np.array([3, 1]))
    assert chosen.labels.tolist() == [2, 0]
    assert chosen.read(1).getpixel((0, 0)) == (1, 0, 0)
    assert chosen.describe(0) == data.train.describe(3)


@pytest.mark.parametrize("prefix", ["/", "./", "pictures/../"])
def test_other_file_names_and_styles_of_paths(root, prefix):
    rows = [f"{prefix}pictures/a 0/0.png\t2\r"]
    (root / "Places_LT_train.txt").write_bytes("\n".join(rows).encode())
    lists = {"train": "Places_LT_train.txt"}
    data = read_image_list(root, "toy", lists=lists)
    assert data.train.labels.tolist() == [2]
    assert data.train.read(0).size == (9, 7)


def test_imagenet_lt_labels_are_ranks_of_wnids(root):
    (root / "labels.txt").write_text("n02 1 fish\nn03 2 bird\nn01 3 tench\n")
    write_image(root / "train/n01/n01_1.JPEG")
    (root / "ImageNet_LT_train.txt").write_text("train/n01/n01_1.JPEG 0\n")
    lists = {"train": "ImageNet_LT_train.txt"}
    data = read_image_list(root, "toy", "imagenet_lt", lists=lists)
    assert data.class_names[data.train.labels[0]] == "tench"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["pictures/a 0/0.png 0", "pictures/a 0/2.png"], r"toy_train.txt:2: .*label'"),
        (["pictures/a 0/0.png 0", "", "x.png 0"], r"toy_train.txt:2: '' is not a row"),
        (["pictures/a 0/0.png -1"], r"toy_train.txt:1: .* whole number"),
        (["pictures/a 0/0.png 1.0"], r"toy_train.txt:1: .* whole number"),
        (["pictures/a 0/0.png 0", "x.png 3"], r"_train.txt:2: label 3 .* 0 to 2"),
        (["pictures/a 0/0.png 0", "../x.png 0"], r"_train.txt:2: '../x.png' leaves"),
        (["a/../../x.png 0"], r"_train.txt:1: .* leaves"),
        (["pictures/a 0/2.jpg 1"], r"_train.txt:1: no image .*did you mean '2.png'"),
        (["b/1.png 1", "b/2.png 1"], r"_train.txt:1 and 1 more: no image 'b/1.png'"),
        (["pictures/a 0/\0.png 1"], r"_train.txt:1: no image"),
        ([], r"toy_train.txt:1: ''"),
    ],
)
def test_faulty_rows_name_list_and_line(root, rows, message):
    write_lists(root, train=rows)
    with pytest.raises(dataset.ListError, match=message):
        read_image_list(root, "toy")


def test_missing_list_names_the_nearest(root):
    with pytest.raises(dataset.ListError, match="did you mean 'toy_train.txt'"):
        read_image_list(root, "toi")


def test_unknown_split(root):
    with pytest.raises(dataset.ListError, match=r"\['dev'\] given, allowed are"):
        read_image_list(root, "toy", lists={"dev": "x.txt"})


def test_image_for_training_and_testing(root):
    write_lists(root, test=["pictures/a 0/6.png 0", "/pictures//a 1/1.png 0"])
    message = r"1 images .*'pictures/a 1/1.png' at .*train.txt:2 and .*test.txt:2"
    with pytest.raises(dataset.SplitOverlapError, match=message):
        read_image_list(root, "toy")


def test_one_listing_per_directory(root, monkeypatch):
    """A stat per file would make 437 thousand calls on iNaturalist."""
    calls = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: calls.append(path) or scandir(path))
    write_lists(root, train=[f"pictures/a {n % 2}/{n % 4}.png 0" for n in range(20000)])
    assert len(read_image_list(root, "toy").train) == 20000
    assert len(calls) == 2


def write_inat(root, split, paths, categories, start=100):
    ids = range(start, start + len(paths))
    content = {
        "images": [{"id": i, "file_name": p} for i, p in zip(ids, paths, strict=True)],
        # Not in the order of the images: they are joined by id.
        "annotations": [
            {"id": i, "image_id": i, "category_id": c}
            for i, c in reversed(list(zip(ids, categories, strict=True)))
        ],
    }
    (root / f"{split}2018.json").write_text(json.dumps(content))


@pytest.fixture
def inat(root):
    categories = [{"id": i, "name": name} for i, name in enumerate("abc")]
    (root / "categories.json").write_text(json.dumps(categories))
    for number in range(4):
        write_image(root / f"train_val2018/Aves/{number % 3}/{number}.jpg")
    train = [f"train_val2018/Aves/{n}/{n}.jpg" for n in range(3)]
    write_inat(root, "train", train, [0, 1, 2])
    write_inat(root, "val", ["train_val2018/Aves/0/3.jpg"], [0])
    return root


def test_inat18_labels_are_category_ids(inat):
    data = inat18.read_inat18(inat)
    assert data.class_names == ("a", "b", "c")
    assert data.train.labels.tolist() == [0, 1, 2]
    assert data.test.labels.tolist() == data.val.labels.tolist() == [0]
    assert data.train.describe(2).endswith(
        f"2/2.jpg ({inat}/train2018.json image id 102)"
    )


def test_inat18_test_labels_where_there_are_any(inat):
    (inat / "test2018.json").write_text('{"images": [{"id": 1, "file_name": "x"}]}')
    assert inat18.read_inat18(inat).test.describe(0).count("val2018.json")
    write_image(inat / "test2018/4.jpg")
    write_inat(inat, "test", ["test2018/4.jpg"], [2])
    assert inat18.read_inat18(inat).test.labels.tolist() == [2]


def test_inat18_folder_tells_another_category(inat):
    write_inat(inat, "val", ["train_val2018/Aves/0/3.jpg"], [1])
    with pytest.raises(dataset.ListError, match="val2018.json image id 100: .*folder"):
        inat18.read_inat18(inat)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "train2018.json is not a list of iNat"),
        ('{"images": []}', "KeyError.*annotations"),
        ('{"images": [], "annotations": []}', "lists no image"),
        (
            '{"images": [{"id": 1, "file_name": "x"}], "annotations": []}',
            "image id 1: 'x' has category none",
        ),
    ],
)
def test_faulty_inat18(inat, content, message):
    (inat / "train2018.json").write_text(content)
    with pytest.raises(dataset.ListError, match=message):
        inat18.read_inat18(inat)


def test_missing_inat18(inat):
    (inat / "val2018.json").unlink()
    with pytest.raises(dataset.ListError, match="no file .*val2018.json"):
        inat18.read_inat18(inat)


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
        read = as_image(decode_image((tmp_path / "x.png").read_bytes(), "x"))
    np.testing.assert_array_equal(read, image.convert("RGB"))


def test_png_named_jpg(tmp_path):
    Image.new("RGB", (3, 2), (1, 2, 3)).save(tmp_path / "x.jpg", "PNG")
    assert as_image(decode_image((tmp_path / "x.jpg").read_bytes(), "x")).size == (3, 2)


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "gone"])
def test_damaged_image_names_file_and_line(root, damage):
    picture = root / "pictures/a 1/1.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(picture)
    write_lists(root, train=["pictures/a 0/0.png 0", "pictures/a 1/1.jpg 1"])
    split = read_image_list(root, "toy").train
    content = picture.read_bytes()
    match damage:
        case "cut":
            picture.write_bytes(content[: len(content) // 2])
        case "garbage":
            picture.write_bytes(b"\xff\xd8\xff" + bytes(500))
        case "empty":
            picture.write_bytes(b"")
        case "gone":
            picture.unlink()
    with pytest.raises(
        ImageReadError, match=r"a 1/1.jpg \(.*toy_train.txt:2\): .*leave"
    ):
        split.read(1)
