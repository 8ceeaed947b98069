"""Unreadable images: tried again, replaced within their class, counted, limited."""

import itertools

import numpy as np
import pytest
from PIL import Image

from vl_ltr_jax.data.batches import examples
from vl_ltr_jax.data.batches.loader import Feed
from vl_ltr_jax.data.images import transforms
from vl_ltr_jax.data.images.decode import ImageReadError, unreadable
from vl_ltr_jax.data.sources.dataset import Split

LABELS = np.repeat(np.arange(3, dtype=np.int32), [40, 8, 1])


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    seconds = []
    monkeypatch.setattr(examples.time, "sleep", seconds.append)
    return seconds


class Storage:
    """Pictures of one colour, their index; some are broken, for a while or for ever."""

    def __init__(self, broken=(), hiccups=0):
        self.broken, self.hiccups, self.reads = set(broken), hiccups, []

    def fetch(self, index):
        self.reads.append(index)
        if index in self.broken:
            if self.hiccups == 0 or self.reads.count(index) <= self.hiccups:
                raise unreadable(self.describe(index), OSError("no such luck"))
        return Image.new("RGB", (8, 8), (index, index, index))

    def describe(self, index):
        return f"{index}.jpg (list:{index + 1})"

    def split(self):
        return Split(LABELS, self.fetch, self.describe)


def batches(storage, *, limit=0.5, start_step=0):
    feed = Feed(7, seed=1, num_threads=0, bad_image_limit=limit)
    transform = transforms.train_transform("none", 8)
    return feed.train(storage.split(), transform, start_step=start_step)


def take(batches, count):
    return list(itertools.islice(batches, count))


def indices(batch):
    return batch["image"][:, 0, 0, 0].astype(int)


def test_a_hiccup_of_storage_costs_a_retry_and_nothing_else(pauses):
    storage = Storage(range(49), hiccups=2)
    feed = batches(storage, limit=0.0)
    sound = take(batches(Storage()), 4)
    for batch, expected in zip(take(feed, 4), sound, strict=True):
        np.testing.assert_array_equal(batch["image"], expected["image"])
    assert feed.account.metrics() == {"data/bad_images": 0}
    assert pauses[:2] == [0.1, 1.0]


def test_a_bad_image_gives_way_to_one_of_its_class():
    """Broken by taking any image: rows would carry a label that is not theirs."""
    storage = Storage({0, 3, 5, 41})
    feed, replaced = batches(storage), 0
    for batch, expected in zip(
        take(feed, 30), take(batches(Storage()), 30), strict=True
    ):
        images, drawn = indices(batch), indices(expected)
        np.testing.assert_array_equal(batch["label"], expected["label"])
        np.testing.assert_array_equal(LABELS[images], batch["label"])
        bad = np.isin(drawn, list(storage.broken))
        assert not np.isin(images, list(storage.broken)).any()
        np.testing.assert_array_equal(images[~bad], drawn[~bad])
        replaced += bad.sum()
    assert replaced > 4
    assert feed.account.metrics() == {"data/bad_images": 4}
    assert batch.keys() == {"image", "label"}


def test_replacements_differ_and_can_be_made_again():
    """Broken by a generator that knows the step alone, or no seed at all."""
    first, again = (take(batches(Storage(range(12))), 8) for _ in range(2))
    for batch, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(batch["image"], same["image"])
    resumed = take(batches(Storage(range(12)), start_step=5), 3)
    for batch, same in zip(resumed, first[5:], strict=True):
        np.testing.assert_array_equal(batch["image"], same["image"])
    sound = take(batches(Storage()), 8)
    drawn, images = (
        np.concatenate([indices(batch) for batch in part]) for part in (sound, first)
    )
    replaced = drawn < 12
    assert len(set(images[replaced])) > replaced.sum() // 2 > 2


def test_past_the_limit_the_run_stops_and_lists_the_images():
    with pytest.raises(examples.BadImagesError, match="data.bad_image_limit") as raised:
        take(batches(Storage({0, 1, 2, 3, 4}), limit=2 / 49), 200)
    assert str(raised.value).count(".jpg (list:") == 3


def test_a_class_without_a_readable_image_stops_the_run():
    with pytest.raises(examples.BadImagesError, match="class 2"):
        take(batches(Storage({48})), 200)


@pytest.mark.parametrize("hiccups", [0, 3])
def test_a_bad_image_is_waited_for_once(pauses, caplog, hiccups):
    """Some thousand draws of one would cost an hour of retries; it may be mended."""
    storage = Storage({0}, hiccups)
    feed = batches(storage, limit=1.0)
    take(feed, 60)
    assert storage.reads.count(0) > 4 and pauses == [0.1, 1.0]
    assert feed.account.metrics() == {"data/bad_images": 1}
    assert "0.jpg (list:1)" in caplog.text


def test_evaluation_never_skips():
    transform = transforms.eval_transform("clip", 8)
    batches = Feed(7, num_threads=0).evaluate(Storage({11}).split(), transform)
    with pytest.raises(ImageReadError, match="11.jpg"):
        list(batches)


def test_the_account_tells_shares_of_the_work(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(examples.time, "perf_counter", lambda: next(clock) * 1.0)
    feed = batches(Storage())
    take(feed, 2)
    assert feed.account.explain().count("50%") == 2
