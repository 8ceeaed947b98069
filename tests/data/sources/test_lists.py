"""Lists, JSON files and image files, and errors that name each fault."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from vl_ltr_jax.data.images.decode import ImageReadError
from vl_ltr_jax.data.sources import inat18
from vl_ltr_jax.data.sources.faults import ListError
from vl_ltr_jax.data.sources.lists import read_image_list
from vl_ltr_jax.data.sources.rows import SplitOverlapError


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
    ("rows", "place"),
    [
        (["pictures/a 0/0.png 0", "pictures/a 0/2.png"], "toy_train.txt:2"),
        (["pictures/a 0/0.png 0", "", "x.png 0"], "toy_train.txt:2"),
        (["pictures/a 0/0.png 1.0"], "toy_train.txt:1"),
        (["pictures/a 0/0.png -1"], "toy_train.txt:1"),
        (["pictures/a 0/0.png 0", "x.png 3"], "toy_train.txt:2"),
        (["pictures/a 0/0.png 0", "../x.png 0"], "toy_train.txt:2"),
        (["a/../../x.png 0"], "toy_train.txt:1"),
        (["pictures/a 0/2.jpg 1"], "toy_train.txt:1.*did you mean '2.png'"),
        (["b/1.png 1", "b/2.png 1"], "toy_train.txt:1.*2 in all"),
        (["pictures/a 0/\0.png 1"], "toy_train.txt:1"),
        ([], "toy_train.txt:1"),
    ],
)
def test_faulty_rows_name_list_and_line(root, rows, place):
    write_lists(root, train=rows)
    with pytest.raises(ListError, match=place):
        read_image_list(root, "toy")


def test_missing_list_names_the_nearest(root):
    with pytest.raises(ListError, match="did you mean 'toy_train.txt'"):
        read_image_list(root, "toi")


def test_image_for_training_and_testing(root):
    write_lists(root, test=["pictures/a 0/6.png 0", "/pictures//a 1/1.png 0"])
    with pytest.raises(SplitOverlapError, match="toy_test.txt:2.*toy_train.txt:2"):
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


def test_inat18_test_labels_if_present(inat):
    (inat / "test2018.json").write_text('{"images": [{"id": 1, "file_name": "x"}]}')
    assert inat18.read_inat18(inat).test.describe(0).count("val2018.json")
    write_image(inat / "test2018/4.jpg")
    write_inat(inat, "test", ["test2018/4.jpg"], [2])
    assert inat18.read_inat18(inat).test.labels.tolist() == [2]


@pytest.mark.parametrize(
    ("file", "content", "place"),
    [
        ("train2018.json", "[", "train2018.json"),
        ("train2018.json", '{"images": []}', "train2018.json"),
        ("train2018.json", '{"images": [], "annotations": []}', "train2018.json"),
        (
            "train2018.json",
            '{"images": [{"id": 1, "file_name": "x"}], "annotations": []}',
            "image id 1",
        ),
        (
            "val2018.json",
            '{"images": [{"id": 7, "file_name": "train_val2018/Aves/0/3.jpg"}],'
            '"annotations": [{"image_id": 7, "category_id": 1}]}',
            "val2018.json image id 7",
        ),
        ("val2018.json", None, "val2018.json"),
    ],
)
def test_faulty_inat18(inat, file, content, place):
    (inat / file).unlink()
    if content is not None:
        (inat / file).write_text(content)
    with pytest.raises(ListError, match=place):
        inat18.read_inat18(inat)


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff" + bytes(500), None])
def test_damaged_image_names_file_and_line(root, content):
    picture = root / "pictures/a 1/1.png"
    split = read_image_list(root, "toy").train
    picture.unlink()
    if content is not None:
        picture.write_bytes(content)
    with pytest.raises(ImageReadError, match="a 1/1.png .*toy_train.txt:2"):
        split.read(1)
