"""Classes in turn (Kang et al., 2020).

`check_turns` compares draws with the rules of their sampler, and rejects five others.
"""

import collections
import json
import pickle
import random
from pathlib import Path

import cloudpickle
import numpy as np
import pytest

from vl_ltr_jax.data.batches.sampler import BatchSampler, ClassAwareDraws

GOLDEN = Path(__file__).parents[2] / "golden" / "class_counts"
REAL = {
    name: np.array(json.loads((GOLDEN / f"{name}.json").read_text()))
    for name in ("imagenet_lt", "places_lt", "inat18")
}
VISIT = 4  # images of a class, one after the other
SMALL = np.array([3, 0, 1, 9, 4, 0, 17])  # two classes have no image


def shuffled_labels(counts, seed=0):
    return np.random.default_rng(seed).permutation(
        np.repeat(range(len(counts)), counts)
    )


def check_turns(labels, images):
    """Whole visits; whole cycles over the classes; no image ahead of its class."""
    classes = set(np.flatnonzero(np.bincount(labels)).tolist())
    drawn = labels[images]
    visits = drawn.reshape(-1, VISIT)
    assert (visits == visits[:, :1]).all(), "a visit is interrupted"
    for start in range(0, len(visits), len(classes)):
        turn = visits[start : start + len(classes), 0].tolist()
        assert len(set(turn)) == len(turn), "a class comes twice in a cycle"
        assert len(turn) < len(classes) or set(turn) == classes
    counts = np.bincount(labels)
    members = collections.defaultdict(list)
    for image, label in zip(images.tolist(), drawn.tolist(), strict=True):
        members[label].append(image)
    for label, drawn_of_class in members.items():
        for start in range(0, len(drawn_of_class), counts[label]):
            once = drawn_of_class[start : start + counts[label]]
            assert len(set(once)) == len(once), "an image comes before all had a turn"


IMAGE_EARLY, CLASS_TWICE = "an image comes before", "a class comes twice"
FAULTS = (IMAGE_EARLY, "a visit is interrupted", CLASS_TWICE, CLASS_TWICE, IMAGE_EARLY)


@pytest.mark.parametrize(("fault", "message"), list(enumerate(FAULTS)))
def test_the_rules_reject_other_draws(fault, message):
    labels, rng = shuffled_labels(SMALL), np.random.default_rng(0)
    draws = ClassAwareDraws(labels, 0).images(0, 5 * VISIT * 60)
    if fault == 0:  # with replacement
        draws = np.array(
            [rng.choice(np.flatnonzero(labels == labels[i])) for i in draws]
        )
    elif fault == 1:  # from the middle of a visit
        draws = draws[2:-2]
    elif fault == 2:  # a cycle without its last class
        draws = np.concatenate([draws[: 4 * VISIT], draws[5 * VISIT :]])
    elif fault == 3:  # classes with replacement
        draws = draws.reshape(-1, VISIT)[rng.integers(0, 300, 300)].ravel()
    else:  # images of a class in a new order at each visit
        members = {c: np.flatnonzero(labels == c) for c in np.unique(labels)}
        visits = labels[draws].reshape(-1, VISIT)[:, 0]
        draws = np.concatenate(
            [np.resize(rng.permutation(members[c]), VISIT) for c in visits]
        )
    with pytest.raises(AssertionError, match=message):
        check_turns(labels, draws)


@pytest.mark.parametrize(
    ("name", "cycles"), [("imagenet_lt", 6), ("places_lt", 30), ("inat18", 1)]
)
def test_the_rules_hold_on_the_benchmarks(name, cycles):
    """Breaks when a visit, a cycle or a class's pass over its images is off by one.

    Classes of 5, and of 2 on iNaturalist, are used up within the draws.
    """
    counts = REAL[name]
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
        draws = ClassAwareDraws(labels, 5)
        starts = list(range(0, 400, size))
        random.Random(0).shuffle(starts)  # earlier calls leave nothing behind
        parts = {s: draws.images(s, min(size, 400 - s)) for s in starts}
        joined = np.concatenate([parts[s] for s in sorted(parts)])
        np.testing.assert_array_equal(joined, sequence)


@pytest.mark.parametrize("start", [10**9, 10**12])
def test_the_rules_hold_far_into_training(start):
    """From a draw that starts every cycle; a sampler that walks there takes hours."""
    labels = shuffled_labels(SMALL)
    period = 5 * VISIT * 9 * 17
    first = start // period * period
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
    sequence = ClassAwareDraws(labels, 0)
    draws = np.concatenate(
        [sequence.images(start, 720) for start in range(0, 6000 * 3 * VISIT, 720)]
    )
    turns = labels[draws].reshape(6000, 3, VISIT)[:, :, 0]
    passes = [draws[labels[draws] == label].reshape(8000, 3) for label in range(3)]
    for orders in (turns, *passes):
        counted = collections.Counter(map(tuple, orders.tolist()))
        expected = len(orders) / 6
        assert len(counted) == 6
        assert max(abs(n - expected) for n in counted.values()) < 5 * expected**0.5


def batches(labels, batch_size, seed=0, sentence_labels=None):
    return BatchSampler(
        np.asarray(labels, np.int32),
        sampling="class_aware",
        batch_size=batch_size,
        seed=seed,
        sentence_labels=sentence_labels,
    )


@pytest.mark.parametrize("batch_size", [1, 7, 20, 64])
def test_batches_are_the_sequence_cut_up(batch_size):
    """A batch goes on where the one before it ended, within a visit or a cycle."""
    labels = shuffled_labels(SMALL)
    drawn = batches(labels, batch_size)
    steps = range(0, 20 * 9 * 17 // batch_size)
    images = np.concatenate([drawn.draw(step).images for step in steps])
    check_turns(labels, images[: len(images) // VISIT * VISIT])
    assert set(labels[images]) == {0, 2, 3, 4, 6}
    cycles = images[: len(images) // 20 * 20]
    of_class = np.bincount(labels[cycles], minlength=7)
    np.testing.assert_array_equal(of_class[SMALL > 0], len(cycles) / 5)


def test_resumed_batches_are_the_same():
    labels = shuffled_labels(REAL["places_lt"])
    through, resumed = batches(labels, 100), batches(labels, 100)
    drawn = [through.draw(step).images for step in range(6)]
    for step in (5, 3, 4):
        np.testing.assert_array_equal(resumed.draw(step).images, drawn[step])
    other = batches(labels, 100, seed=1).draw(0).images
    assert not np.array_equal(other, drawn[0])


def test_a_sampler_travels_to_a_worker():
    labels = shuffled_labels(SMALL)
    drawn = batches(labels, 9, sentence_labels=np.repeat(np.arange(7), 3))
    before = [drawn.draw(step) for step in range(4)]
    copied = pickle.loads(cloudpickle.dumps(drawn))
    for step in (2, 0, 3, 1):
        for ours, theirs in zip(copied.draw(step), before[step], strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_sentences_are_of_the_class_of_each_image():
    labels = shuffled_labels(SMALL)
    sentence_labels = np.repeat(np.arange(7), [2, 5, 1, 3, 2, 0, 4])
    drawn = batches(labels, 7, sentence_labels=sentence_labels)
    used = set()
    for step in range(100):
        images, sentences = drawn.draw(step)
        np.testing.assert_array_equal(sentence_labels[sentences], labels[images])
        used |= set(sentences.tolist())
        np.testing.assert_array_equal(images, batches(labels, 7).draw(step).images)
    assert used == set(np.flatnonzero(sentence_labels != 1))  # class 1 has no image
