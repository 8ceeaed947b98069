"""Labels of prepared records, and records that are damaged."""

import io
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds

from vl_ltr_jax.data.images.decode import ImageReadError
from vl_ltr_jax.data.sources import tfds_labels
from vl_ltr_jax.data.sources.faults import ListError
from worlds.prepared_world import imagenet, prepared, read, shard

__all__ = ["imagenet", "prepared"]  # fixtures


@pytest.fixture
def scans(monkeypatch):
    """Splits whose records were read for their labels."""
    splits = []
    scan = tfds_labels.scan_labels

    def counted(source, where):
        splits.append(where.split()[1])
        return scan(source, where)

    monkeypatch.setattr(tfds_labels, "scan_labels", counted)
    return splits


def label_file(imagenet, split="train"):
    return imagenet[0] / f"imagenet_lt/1.0.0/labels_{split}.npz"


@pytest.mark.parametrize("damage", ["cut", "empty", "short", "of another split"])
def test_a_file_with_labels_that_does_not_fit_is_replaced(imagenet, scans, damage):
    expected, path = read(imagenet).train, label_file(imagenet)
    content = path.read_bytes()
    if damage == "short":
        with np.load(io.BytesIO(content)) as arrays:
            np.savez(path, **{**arrays, "labels": arrays["labels"][1:]})
    elif damage == "of another split":
        shutil.copy(label_file(imagenet, "test"), path)
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    for _ in range(2):
        again = read(imagenet).train
        assert again.labels.tolist() == expected.labels.tolist()
        assert again.describe(0) == expected.describe(0)
        assert scans.count("train") == 2


def test_labels_that_cannot_be_written_are_read_each_time(imagenet, scans, monkeypatch):
    monkeypatch.setattr(tfds_labels.atomic, "write", None)
    for _ in range(2):
        assert read(imagenet).train_counts.tolist() == [10, 10, 10]
    assert scans.count("train") == 2


def test_a_record_with_another_label_than_the_file_is_refused(imagenet):
    builder = tfds.builder_from_directory(imagenet[0] / "imagenet_lt/1.0.0")
    tfds_labels.keep_labels(builder, "train", np.zeros(30, np.int32), ())
    train = read(imagenet).train
    assert not train.labels.any()
    assert train.describe(3) == "imagenet_lt/1.0.0 train record 3"
    with pytest.raises(ListError, match="train record"):
        for index in range(30):
            train.fetch(index)


def test_a_missing_file_is_detected_at_once(imagenet):
    shard(imagenet[0], number=1).unlink()
    with pytest.raises(ListError, match="-00001-of-00002"):
        read(imagenet)


@pytest.mark.parametrize("damage", ["cut", "empty"])
def test_damaged_records_are_named(imagenet, damage):
    read(imagenet)
    train = read(imagenet).train  # with labels of the file: no record is open
    path = shard(imagenet[0])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    with pytest.raises(ImageReadError, match="train record 0"):
        train.read(0)
    assert train.read(29).size == (32, 32)
    with pytest.raises(ListError, match="train record 0"):  # sizes differ: read again
        read(imagenet)
