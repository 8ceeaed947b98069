"""Batches of cached features hold the images that the loader of images draws."""

import itertools

import numpy as np
import pytest

from vl_ltr_jax.data.batches import loader, sampler

LABELS = np.repeat(np.arange(3, dtype=np.int32), [7, 3, 1])
# Row i of view v is [v, i, v], so each feature names its source.
TABLES = [
    np.stack([np.full(11, v), np.arange(11), np.full(11, v)], axis=1).astype(np.float32)
    for v in range(3)
]


def draw(*, num_batches=5, **options):
    steps = {k: options.pop(k) for k in ("sampling", "start_step") if k in options}
    feed = loader.Feed(**{"batch_size": 6, "seed": 3} | options)
    return list(itertools.islice(feed.features(TABLES, LABELS, **steps), num_batches))


def test_a_batch_holds_features_of_the_images_that_the_loader_draws():
    """Breaks if a view has a part of the images only, or if images are drawn by another
    rule than `Feed.train`."""
    draws = sampler.BatchSampler(LABELS, sampling="sqrt", batch_size=6, seed=3)
    batches = draw(num_batches=100)
    for step, batch in enumerate(batches):
        images = draws.draw(step).images
        assert batch["features"].dtype == np.float32
        assert batch["label"].dtype == np.int32
        np.testing.assert_array_equal(batch["features"][:, 1], images)
        np.testing.assert_array_equal(batch["label"], LABELS[images])
        np.testing.assert_array_equal(batch["features"][:, 0], batch["features"][:, 2])
    drawn = np.concatenate([batch["features"] for batch in batches]).astype(int)
    pairs = np.zeros((3, 11), int)
    np.add.at(pairs, (drawn[:, 0], drawn[:, 1]), 1)
    assert (pairs > 0).all()
    assert pairs.sum(axis=1) == pytest.approx(200, abs=50)


def assert_same(batches, others):
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for key, values in batch.items():
            np.testing.assert_array_equal(values, other[key], key)


def test_resuming_at_a_step_yields_its_batches():
    assert_same(draw(num_batches=2, start_step=3), draw()[3:])
    assert len(draw(num_batches=1, start_step=10**12)) == 1
    assert draw(seed=4)[0]["features"].tobytes() != draw()[0]["features"].tobytes()


@pytest.mark.parametrize("process_count", [2, 3])
def test_processes_share_one_global_batch(process_count):
    shares = [
        draw(process_index=index, process_count=process_count)
        for index in range(process_count)
    ]
    joined = [
        {key: np.concatenate([share[key] for share in parts]) for key in parts[0]}
        for parts in zip(*shares, strict=True)
    ]
    assert_same(joined, draw())


def test_processes_that_do_not_share_a_batch_are_refused():
    with pytest.raises(ValueError, match="6 is not a multiple of the 4 processes"):
        draw(process_count=4)
