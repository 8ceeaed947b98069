"""CIFAR-100-LT: the remaining images of each class."""

import numpy as np
import pytest

from vl_ltr_jax.data.sources import long_tail
from vl_ltr_jax.data.sources.tfds_records import read_prepared
from worlds.prepared_world import NO_TEXTS, prepare


@pytest.mark.parametrize(
    ("imbalance", "smallest", "total"),
    [
        (200, 2, 9502),
        (100, 5, 10847),
        (50, 10, 12608),
        (20, 25, 15907),
        (10, 50, 19573),
    ],
)
def test_counts_of_cifar100_lt(imbalance, smallest, total):
    """The totals of the literature; rounding instead of cutting adds 50."""
    counts = long_tail.exponential_counts(500, 100, imbalance)
    assert (counts[0], counts[-1], sum(counts)) == (500, smallest, total)
    assert counts == tuple(sorted(counts, reverse=True))
    assert min(long_tail.exponential_counts(20, 9, 100)) == 1


def test_thinning_is_drawn_once_and_for_all():
    """Drawing from numpy's global state, or all classes from one stream, fails."""
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(5), 40))
    labels = labels.astype(np.int32)
    np.random.seed(3)
    ten = long_tail.thin(labels, 10, seed=7)
    assert ten[:6].tolist() == [0, 2, 3, 4, 6, 7]
    np.testing.assert_array_equal(ten, np.unique(ten))
    assert np.bincount(labels[ten]).tolist() == [40, 22, 12, 7, 4]
    assert set(long_tail.thin(labels, 100, seed=7)) < set(ten)
    np.testing.assert_array_equal(long_tail.thin(labels, 10, seed=7), ten)
    assert not np.array_equal(long_tail.thin(labels, 10, seed=8), ten)
    # The images of a class do not depend on how many another has.
    fewer = long_tail.thin(labels[labels < 4], 10, seed=7)
    members = np.flatnonzero(labels < 4)[fewer]
    assert set(members[labels[members] == 3]) < set(ten)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cifar100_lt", [40, 12, 4, 1, 1]),
        ("cifar100_lt/50:1.0.0", [40, 15, 5, 2, 1]),
        ("cifar100_lt/10", [40, 22, 12, 7, 4]),
    ],
)
def test_cifar100_lt(tmp_path, name, expected):
    """CIFAR-100 in small: five classes of 40, and no validation split."""
    names = ["apple", "aquarium_fish", "baby", "bear", "beaver"]
    counts = {"train": 200, "test": 20}
    prepare(tmp_path, name="cifar100", names=names, counts=counts, size=(32, 32, 3))
    data = read_prepared(tmp_path, name, texts=NO_TEXTS)
    assert data.name == name
    assert data.class_names[1] == "aquarium fish"
    assert data.val is data.test
    assert len(data.test) == 20
    reds = [data.train.read(i).getpixel((0, 0))[0] for i in range(len(data.train))]
    assert np.bincount(np.array(reds) % 5).tolist() == data.train_counts.tolist()
    assert data.train_counts.tolist() == expected
    assert data.train.labels.tolist() == [red % 5 for red in reds]
