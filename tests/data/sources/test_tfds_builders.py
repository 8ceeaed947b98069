"""The official files of Places-LT and iNaturalist 2018 as ArrayRecord, row by row."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from vl_ltr_jax.commands import prepare_data
from vl_ltr_jax.data.images.decode import ImageReadError
from vl_ltr_jax.data.sources import tfds_builders, tfds_labels
from vl_ltr_jax.data.sources.tfds_records import read_prepared
from worlds import checked_world, prepared_world
from worlds.prepared_world import NO_TEXTS
from worlds.sound_images import picture


@pytest.fixture
def places(tmp_path):
    """Seven training images, not in the order of classes; one PNG is called .jpg."""
    root = tmp_path / "places"
    for number in range(12):
        picture(root / f"data/im_{number}.jpg", number)
    picture(root / "data/im_3.png").rename(root / "data/im_3.jpg")
    (root / "labels.txt").write_text("/a/airfield 0\n/b/bar_room 1\n/c/cafe 2\n")
    rows = [f"data/im_{number}.jpg {number % 3}" for number in range(12)]
    (root / "Places_LT_train.txt").write_text("\n".join(reversed(rows[:7])) + "\n")
    (root / "Places_LT_val.txt").write_text("".join(f"/{row}\n" for row in rows[7:9]))
    (root / "Places_LT_test.txt").write_text("\n".join(rows[9:]))
    return root


def test_records_are_the_rows_of_the_lists(places, tmp_path, monkeypatch):
    """Shuffling, or a shard too many, moves a row away from its number.

    Labels lie next to the records: breaks if half a million are read again for them.
    """
    monkeypatch.setattr(tfds_labels, "scan_labels", None)
    home = tmp_path / "d"
    directory = tfds_builders.prepare("places_lt", home, root=places, num_shards=3)
    assert directory == home / "places_lt/1.0.0"
    splits = tfds.builder_from_directory(directory).info.splits
    assert splits["train"].shard_lengths == [2, 2, 3]
    assert splits["val"].shard_lengths == [1, 1]
    data = read_prepared(home, "places_lt", "places_lt", texts=NO_TEXTS)
    # The blank in front is that of VL-LTR's prompts.
    assert data.class_names == (" a airfield", " b bar room", " c cafe")
    assert data.train.labels.tolist() == [0, 2, 1, 0, 2, 1, 0]
    numbers = {"train": range(6, -1, -1), "val": (7, 8), "test": (9, 10, 11)}
    for name, expected in numbers.items():
        split = getattr(data, name)
        assert len(split) == len(expected)
        for index, number in enumerate(expected):
            content = (places / f"data/im_{number}.jpg").read_bytes()
            assert split.fetch(index) == content
            assert split.labels[index] == number % 3
    assert data.train.fetch(3).startswith(b"\x89PNG")
    assert data.val.describe(1) == "places_lt/1.0.0 val record 1 (data/im_8.jpg)"
    read_by_tfds = tfds.builder_from_directory(directory).as_data_source("val")
    record = read_by_tfds[1]
    assert (record["label"], record["file_name"]) == (2, b"data/im_8.jpg")


def test_nothing_is_overwritten(places, tmp_path):
    directory = tfds_builders.prepare("places_lt", tmp_path, root=places)
    before = {path: path.stat().st_mtime_ns for path in directory.iterdir()}
    with pytest.raises(tfds_builders.PrepareError, match="--data_dir"):
        tfds_builders.prepare("places_lt", tmp_path, root=places)
    assert {path: path.stat().st_mtime_ns for path in directory.iterdir()} == before


def test_inat18(tmp_path):
    inat = checked_world.write_inat(tmp_path / "inat")
    file = inat / "train_val2018/Aves/2/train_1.jpg"
    file.write_bytes(b"damaged")  # detected at decoding
    tfds_builders.prepare("inaturalist2018_lt", tmp_path, root=inat)
    data = read_prepared(tmp_path, "inaturalist2018_lt", "inat18", texts=NO_TEXTS)
    assert data.class_names[:2] == ("Tench", "Acorn")
    assert data.train.labels.tolist() == np.repeat(range(12), 3).tolist()
    assert data.train.fetch(7) == b"damaged"
    with pytest.raises(ImageReadError, match=f"Aves/2/{file.name}"):
        data.train.read(7)
    assert data.test_is_val


def test_labels_of_the_catalogues_sets_are_kept_too(tmp_path, monkeypatch, capsys):
    catalogue = prepared_world.variant(name="cifar100", names=["apple", "bear"])
    monkeypatch.setattr(tfds, "builder", lambda name, **options: catalogue(**options))
    prepare_data.main(["cifar100", f"--data_dir={tmp_path}"])
    assert "train 30, validation 6, test 9" in capsys.readouterr().out
    monkeypatch.setattr(tfds_labels, "scan_labels", None)
    train = read_prepared(tmp_path, "cifar100", texts=NO_TEXTS).train
    for index in range(30):
        red = train.read(index).getpixel((0, 0))[0]
        assert train.labels[index] == red % 2
        assert train.describe(index).endswith(f"record {index} (train_{red}.JPEG)")


@pytest.mark.parametrize(
    ("arguments", "error", "remedy"),
    [
        (["places_lt"], None, "--root="),
        (["cifar100"], AssertionError("no\n way"), "network"),
        (["imagenet_lt", "--root=."], OSError(5, "x"), "--root"),
        (["mnist"], ModuleNotFoundError(name="beam"), "pip install beam"),
    ],
)
def test_command_names_the_remedy(
    tmp_path, monkeypatch, capsys, arguments, error, remedy
):
    def fail(builder, dl_manager):
        raise error

    if error:
        catalogue = prepared_world.variant(_split_generators=fail)
        monkeypatch.setattr(tfds, "builder", lambda name, **keys: catalogue(**keys))
    assert prepare_data.main([*arguments, f"--data_dir={tmp_path}"]) == 2
    message = capsys.readouterr().err
    assert remedy in message and message.count("\n") == 1
    assert not list(tmp_path.glob("imagenet_lt/*"))
