"""Labels of prepared records, and records that are damaged."""

import io
import os
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds

from vl_ltr_jax.data.images.decode import ImageReadError
from vl_ltr_jax.data.sources import tfds_labels
from vl_ltr_jax.data.sources.dataset import ListError
from worlds.prepared_world import imagenet, made, prepare, read, shard, write_names

__all__ = ["imagenet", "made"]  # fixtures


@pytest.fixture
def scans(monkeypatch):
    """The splits whose records were read for their labels."""
    scanned = []
    scan = tfds_labels.scan_labels

    def counted(source, where):
        scanned.append(where.split()[1])
        return scan(source, where)

    monkeypatch.setattr(tfds_labels, "scan_labels", counted)
    return scanned


def test_labels_are_read_from_the_records_once(imagenet, scans, tmp_path):
    cache = tmp_path / "cache/deep"
    for _ in range(2):
        data = read(imagenet, cache_directory=cache)
        assert len(scans) == 3
    assert data.train.describe(0) == read(imagenet).train.describe(0)
    assert len(scans) == 6  # without a cache
    assert len(list(cache.iterdir())) == 3
    read(imagenet, cache_directory="")
    assert len(scans) == 9


def test_kept_labels_of_other_records_are_not_taken(imagenet, scans, tmp_path):
    """Sizes of ArrayRecord files are rounded: times tell the records apart."""
    data_dir, _ = imagenet
    cache = tmp_path / "cache"
    read(imagenet, cache_directory=cache)
    sizes = [shard(data_dir, number=n).stat().st_size for n in (0, 1)]
    shutil.rmtree(data_dir / "imagenet_lt")
    prepare(data_dir, first_label=1)
    assert sizes == [shard(data_dir, number=n).stat().st_size for n in (0, 1)]
    train = read(imagenet, cache_directory=cache).train
    reds = [train.read(index).getpixel((0, 0))[0] for index in range(30)]
    assert train.labels.tolist() == [(red + 1) % 3 for red in reds]
    assert len(scans) == 6


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "not a directory"])
def test_a_cache_that_cannot_be_used_is_no_fault(imagenet, scans, tmp_path, damage):
    cache = tmp_path / "cache"
    expected = read(imagenet, cache_directory=cache).train
    for path in cache.iterdir():
        content = path.read_bytes()
        if damage == "other":
            with np.load(io.BytesIO(content)) as kept:
                np.savez(path, **{**kept, "labels": kept["labels"][1:]})
        else:
            path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    if damage == "not a directory":
        shutil.rmtree(cache)
        cache.write_text("")
    again = read(imagenet, cache_directory=cache).train
    assert len(scans) == 6
    assert again.labels.tolist() == expected.labels.tolist()
    assert again.describe(0) == expected.describe(0)
    if damage != "not a directory":
        read(imagenet, cache_directory=cache)
        assert len(scans) == 6


def test_labels_beside_the_records_are_made_anew_where_they_do_not_fit(made, tmp_path):
    data_dir = tmp_path
    shutil.copytree(made / "imagenet_lt", data_dir / "imagenet_lt")
    imagenet = data_dir, write_names(tmp_path / "names")
    builder = tfds.builder_from_directory(data_dir / "imagenet_lt/1.0.0")
    wrong = np.zeros(30, np.int32)
    tfds_labels.keep_labels(builder, "train", wrong, ())
    taken = read(imagenet).train
    assert taken.labels.tolist() == wrong.tolist()
    assert taken.describe(3) == "imagenet_lt/1.0.0 train record 3"
    index = next(i for i in range(30) if read_label(builder, i))
    message = rf"train record {index} has label [12], but 0 was kept.*exchanged"
    with pytest.raises(ListError, match=message):
        taken.fetch(index)
    shutil.copy(
        data_dir / "imagenet_lt/1.0.0/labels_train.npz",
        data_dir / "imagenet_lt/1.0.0/labels_validation.npz",
    )
    data = read(imagenet)
    assert sorted(data.val.labels.tolist()) == [0, 0, 1, 1, 2, 2]
    (data_dir / "imagenet_lt/1.0.0/labels_train.npz").unlink()
    assert read(imagenet).train_counts.tolist() == [10, 10, 10]


def read_label(builder, index):
    source = builder.as_data_source(
        "train", decoders={"image": tfds.decode.SkipDecoding()}
    )
    return source[index]["label"]


def test_a_missing_file_is_found_at_once(imagenet):
    shard(imagenet[0], number=1).unlink()
    message = "1 of 2 files of the split train are missing from .*-00001-of-00002"
    with pytest.raises(ListError, match=message):
        read(imagenet)


@pytest.mark.parametrize("damage", ["cut", "empty", "gone"])
def test_damaged_records(imagenet, tmp_path, damage):
    cache = tmp_path / "cache"
    read(imagenet, cache_directory=cache)
    path = shard(imagenet[0])
    time, size = path.stat().st_mtime_ns, path.stat().st_size
    content = path.read_bytes()
    if damage == "gone":
        train = read(imagenet, cache_directory=cache).train
        path.unlink()
    else:
        path.write_bytes(content[: size // 2] if damage == "cut" else b"")
        os.utime(path, ns=(time, time))
        with pytest.raises(ListError, match="train record 0 cannot be read .*again"):
            read(imagenet, cache_directory=cache)
        path.write_bytes(content)
        os.utime(path, ns=(time, time))
        train = read(imagenet, cache_directory=cache).train
        path.write_bytes(content[: size // 2] if damage == "cut" else b"")
    with pytest.raises(
        ImageReadError, match=r"imagenet_lt/1.0.0 train record 0 \(train"
    ):
        train.read(0)
    assert train.read(29).size == (32, 32)
