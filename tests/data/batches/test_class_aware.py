"""Classes in turn (Kang et al., 2020)."""

import collections
import pickle
import random

import cloudpickle
import numpy as np
import pytest

from vl_ltr_jax.data.batches.sampler import BatchSampler, ClassAwareDraws
from worlds.golden import load

VISIT = 4  # images of a class, one after the other
SMALL = np.array([3, 0, 1, 9, 4, 0, 17])  # two classes have no image


def shuffled_labels(counts, seed=0):
    return np.random.default_rng(seed).permutation(
        np.repeat(range(len(counts)), counts)
    )


def check_turns(labels, images):
    """Whole visits; whole cycles over the classes; no image ahead of its class."""
    classes = set(labels.tolist())
    drawn = labels[images]
    visits = drawn.reshape(-1, VISIT)
    assert (visits == visits[:, :1]).all(), "a visit is interrupted"
    for start in range(0, len(visits), len(classes)):
        turn = visits[start : start + len(classes), 0].tolist()
        assert len(set(turn)) == len(turn), "a class comes twice"
        assert len(turn) < len(classes) or set(turn) == classes
    counts = np.bincount(labels)
    members = collections.defaultdict(list)
    for image, label in zip(images.tolist(), drawn.tolist(), strict=True):
        members[label].append(image)
    for label, drawn_of_class in members.items():
        for start in range(0, len(drawn_of_class), counts[label]):
            once = drawn_of_class[start : start + counts[label]]
            assert len(set(once)) == len(once), "an image comes early"


@pytest.mark.parametrize(
    ("name", "cycles"), [("imagenet_lt", 6), ("places_lt", 30), ("inat18", 1)]
)
def test_the_rules_hold_on_the_benchmarks(name, cycles):
    """Breaks when a visit, a cycle or a class's pass over its images is off by one.

    Classes of 5, and of 2 on iNaturalist, are used up within the draws.
    """
    counts = np.array(load(f"class_counts/{name}.json"))
    labels = shuffled_labels(counts)
    cycle = VISIT * len(counts)
    draws = ClassAwareDraws(labels, 3)
    images = np.concatenate([draws.images(i * cycle, cycle) for i in range(cycles)])
    check_turns(labels, images)
    of_class = np.bincount(labels[images], minlength=len(counts))
    np.testing.assert_array_equal(of_class, VISIT * cycles)


def test_a_class_is_used_up_evenly():
    """After every whole pass over a class, all its images have come equally often."""
    labels = shuffled_labels(SMALL)
    cycles = 9 * 17  # of 4 images: passes of 1, 3, 4, 9 and 17 images come out even
    images = ClassAwareDraws(labels, 0).images(0, 5 * VISIT * cycles)
    of_image = np.bincount(images, minlength=len(labels))
    np.testing.assert_array_equal(of_image, VISIT * cycles / SMALL[labels])


def test_any_slice_is_part_of_one_sequence():
    labels = shuffled_labels(SMALL)
    sequence = ClassAwareDraws(labels, 5).images(0, 400)
    for size in (1, 3, 7, 20, 64, 399):
        draws = pickle.loads(cloudpickle.dumps(ClassAwareDraws(labels, 5)))
        starts = list(range(0, 400, size))
        random.Random(0).shuffle(starts)  # earlier calls leave nothing behind
        parts = {s: draws.images(s, min(size, 400 - s)) for s in starts}
        joined = np.concatenate([parts[s] for s in sorted(parts)])
        np.testing.assert_array_equal(joined, sequence)


def test_the_rules_hold_far_into_training():
    """From a draw that starts every cycle; a sampler that walks there takes hours."""
    labels = shuffled_labels(SMALL)
    period = 5 * VISIT * 9 * 17
    first = 10**12 // period * period
    check_turns(labels, ClassAwareDraws(labels, 1).images(first, period))


def test_orders_differ_between_cycles_and_seeds():
    counts = np.full(50, 40)
    labels = shuffled_labels(counts)
    orders = set()
    for seed in (0, 1, 2):
        images = ClassAwareDraws(labels, seed).images(0, 30 * 50 * VISIT)
        turns = labels[images].reshape(30, 50, VISIT)[:, :, 0]
        orders |= set(map(tuple, turns.tolist()))
        for label in range(50):  # places within the class, of its first three passes
            members = np.flatnonzero(labels == label)
            places = np.searchsorted(members, images[labels[images] == label])
            orders |= set(map(tuple, places.reshape(3, 40).tolist()))
    assert len(orders) == 3 * (30 + 50 * 3)
    assert all((np.diff(order) != 1).any() for order in orders)


def test_every_order_is_as_likely():
    """Six orders of three classes, and of the three images of each."""
    labels = np.repeat([0, 1, 2], 3)
    draws = ClassAwareDraws(labels, 0).images(0, 6000 * 3 * VISIT)
    turns = labels[draws].reshape(6000, 3, VISIT)[:, :, 0]
    passes = [draws[labels[draws] == label].reshape(8000, 3) for label in range(3)]
    for orders in (turns, *passes):
        counted = collections.Counter(map(tuple, orders.tolist()))
        expected = len(orders) / 6
        assert len(counted) == 6
        assert max(abs(n - expected) for n in counted.values()) < 5 * expected**0.5


def batches(labels, batch_size, sentence_labels=None):
    return BatchSampler(
        labels.astype(np.int32),
        sampling="class_aware",
        batch_size=batch_size,
        seed=0,
        sentence_labels=sentence_labels,
    )


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batches_are_the_sequence_cut_up(batch_size):
    """A batch goes on where the one before it ended, within a visit or a cycle."""
    labels = shuffled_labels(SMALL)
    drawn = batches(labels, batch_size)
    steps = range(0, 20 * 9 * 17 // batch_size)
    images = np.concatenate([drawn.draw(step).images for step in steps])
    check_turns(labels, images[: len(images) // VISIT * VISIT])
    cycles = images[: len(images) // 20 * 20]
    of_class = np.bincount(labels[cycles], minlength=7)
    np.testing.assert_array_equal(of_class[SMALL > 0], len(cycles) / 5)


def test_sentences_are_of_the_class_of_each_image():
    labels, sentence_labels = shuffled_labels(SMALL), np.repeat(np.arange(7), 2)
    images, sentences = batches(labels, 500, sentence_labels).draw(3)
    np.testing.assert_array_equal(sentence_labels[sentences], labels[images])
    np.testing.assert_array_equal(images, batches(labels, 500).draw(3).images)
    assert set(sentences) == set(np.flatnonzero(SMALL[sentence_labels]))
