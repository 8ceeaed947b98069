"""Lists, JSON files and image files, and errors that name each fault."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from vl_ltr_jax.data.sources import inat18
from vl_ltr_jax.data.sources.faults import ListError
from vl_ltr_jax.data.sources.lists import read_image_list
from worlds import checked_world


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
        path = tmp_path / f"pictures/a {number % 2}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 7), (number, 0, 0)).save(path)
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
    chosen = data.train.select(np.array([3, 1]))
    assert chosen.labels.tolist() == [2, 0]
    assert chosen.read(1).getpixel((0, 0)) == (1, 0, 0)
    assert chosen.describe(0) == where


@pytest.mark.parametrize("prefix", ["/", "./", "pictures/../"])
def test_other_file_names_and_styles_of_paths(root, prefix):
    rows = [f"{prefix}pictures/a 0/0.png\t2\r"]
    (root / "Places_LT_train.txt").write_bytes("\n".join(rows).encode())
    lists = {"train": "Places_LT_train.txt"}
    data = read_image_list(root, "toy", lists=lists)
    assert data.train.labels.tolist() == [2]
    assert data.train.read(0).size == (9, 7)


@pytest.mark.parametrize(
    ("rows", "place"),
    [
        (["pictures/a 0/0.png 0", "", "x.png 0"], "toy_train.txt:2"),
        (["pictures/a 0/0.png 1.0"], "toy_train.txt:1"),
        (["pictures/a 0/0.png 0", "x.png 3"], "toy_train.txt:2"),
        (["pictures/a 0/2.jpg 1"], "toy_train.txt:1.*did you mean '2.png'"),
        (["b/1.png 1", "b/2.png 1"], "toy_train.txt:1.*2 in all"),
        ([], "toy_train.txt:1"),
    ],
)
def test_faulty_rows_name_list_and_line(root, rows, place):
    write_lists(root, train=rows)
    with pytest.raises(ListError, match=place):
        read_image_list(root, "toy")


@pytest.fixture
def inat(tmp_path):
    return checked_world.write_inat(tmp_path / "inat")


def test_inat18_labels_are_category_ids(inat):
    content = json.loads((inat / "train2018.json").read_text())
    content["annotations"].reverse()  # they are joined by id
    (inat / "train2018.json").write_text(json.dumps(content))
    data = inat18.read_inat18(inat)
    assert data.class_names[:2] == ("Tench", "Acorn")
    assert data.train.labels.tolist() == np.repeat(range(12), 3).tolist()
    where = f"0/train_2.jpg ({inat}/train2018.json image id 102)"
    assert data.train.describe(2).endswith(where)


def test_inat18_test_images_need_labels(inat):
    assert inat18.read_inat18(inat).test_is_val
    (inat / "test2018.json").write_text('{"images": [{"id": 1, "file_name": "x"}]}')
    assert inat18.read_inat18(inat).test_is_val
    shutil.copy(inat / "val2018.json", inat / "test2018.json")
    test = inat18.read_inat18(inat).test
    assert "test2018.json" in test.describe(0) and test.labels.tolist() == [*range(12)]


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ('{"images": []}', "train2018.json"),
        ('{"images": [], "annotations": []}', "train2018.json"),
        ('{"images": [{"id": 1, "file_name": "x"}], "annotations": []}', "image id 1"),
        (None, "train2018.json"),
    ],
)
def test_faulty_inat18(inat, content, place):
    (inat / "train2018.json").unlink()
    if content is not None:
        (inat / "train2018.json").write_text(content)
    with pytest.raises(ListError, match=place):
        inat18.read_inat18(inat)
