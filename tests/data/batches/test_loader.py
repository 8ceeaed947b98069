"""Batches of images and features: the same for any threads, shares and start."""

import itertools

import numpy as np
import pytest
from PIL import Image

from vl_ltr_jax.data.batches import examples, sampler
from vl_ltr_jax.data.batches.loader import BatchSizeError, Feed, Sentences
from vl_ltr_jax.data.images import transforms
from vl_ltr_jax.data.sources.dataset import Split

LABELS = np.array([0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3], np.int32)
SENTENCE_LABELS = np.repeat(np.arange(4, dtype=np.int32), [3, 1, 4, 2])
TOKENS = np.arange(50, dtype=np.uint16).reshape(10, 5)  # each row is full
SENTENCES = Sentences(SENTENCE_LABELS, TOKENS, num_devices=6)
TRANSFORM = transforms.train_transform("rand_augment", 8)


def read(index):
    rng = np.random.default_rng(index)
    return Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8))


def split_of(read):
    return Split(LABELS, read, lambda index: f"image {index}")


SPLIT = split_of(read)


def train(*, num_batches=4, split=SPLIT, sentences=SENTENCES, start_step=0, **options):
    feed = Feed(**{"batch_size": 6, "seed": 3, "num_threads": 2} | options)
    batches = feed.train(split, TRANSFORM, sentences=sentences, start_step=start_step)
    return list(itertools.islice(batches, num_batches))


# Row i of view v is [v, i], so each feature names its source.
VIEWS = [np.array([(v, i) for i in range(11)], np.float32) for v in range(3)]


def features(*, num_batches=4, start_step=0, **options):
    feed = Feed(**{"batch_size": 6, "seed": 3} | options)
    batches = feed.features(VIEWS, LABELS, start_step=start_step)
    return list(itertools.islice(batches, num_batches))


def evaluate(*, split=SPLIT, **options):
    feed = Feed(**{"batch_size": 4, "num_threads": 2} | options)
    return list(feed.evaluate(split, transforms.eval_transform("clip", 8)))


def assert_same(batches, expected):
    for batch, other in zip(batches, expected, strict=True):
        assert batch.keys() == other.keys()
        for key, values in batch.items():
            assert values.dtype == other[key].dtype
            np.testing.assert_array_equal(values, other[key], key)


def joined(shares):
    """Global batches of the batches of each process."""
    return [
        {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
        for batches in zip(*shares, strict=True)
    ]


def test_sentences_are_of_the_class_and_change_no_image():
    batch = train(num_batches=1)[0]
    shapes = {key: (values.shape, str(values.dtype)) for key, values in batch.items()}
    alone = {"image": ((6, 8, 8, 3), "uint8"), "label": ((6,), "int32")}
    assert shapes == {
        **alone,
        "sentence_id": ((6,), "int32"),
        **dict.fromkeys(("tokens", "segments", "positions"), ((6, 1, 5), "int32")),
        "ends": ((6, 1), "int32"),
    }
    sentences = batch["sentence_id"]
    np.testing.assert_array_equal(batch["label"], SENTENCE_LABELS[sentences])
    np.testing.assert_array_equal(batch["tokens"][:, 0], TOKENS[sentences])
    same = [{key: batch[key] for key in alone} for batch in train()]
    assert_same(train(sentences=None), same)


def test_features_are_of_the_images_that_train_draws():
    """Breaks if a view has a part of the images only, or draws follow another rule."""
    draws = sampler.BatchSampler(LABELS, sampling="sqrt", batch_size=6, seed=3)
    pairs = np.zeros((3, 11), int)
    for step, batch in enumerate(features(num_batches=100)):
        images = draws.draw(step).images
        assert batch["features"].dtype == np.float32
        np.testing.assert_array_equal(batch["features"][:, 1], images)
        np.testing.assert_array_equal(batch["label"], LABELS[images])
        np.add.at(pairs, tuple(batch["features"].astype(int).T), 1)
    assert (pairs > 0).all()
    assert pairs.sum(axis=1) == pytest.approx(200, abs=50)


@pytest.mark.parametrize("draw", [train, features])
@pytest.mark.parametrize("start_step", [1, 5])
def test_resume_at_any_step_equals_the_unbroken_run(draw, start_step):
    """A generator that runs on from step to step would restart here."""
    resumed = draw(num_batches=6 - start_step, start_step=start_step)
    assert_same(resumed, draw(num_batches=6)[start_step:])


@pytest.mark.parametrize("draw", [train, features])
@pytest.mark.parametrize("process_count", [2, 6])
def test_processes_share_one_global_batch(draw, process_count):
    shares = [
        draw(process_index=index, process_count=process_count)
        for index in range(process_count)
    ]
    assert shares[0][0]["label"].shape == (6 // process_count,)
    assert_same(joined(shares), draw())


@pytest.mark.parametrize("num_threads", [0, 7])
def test_threads_change_nothing(num_threads):
    assert_same(train(num_threads=num_threads), train())
    assert_same(evaluate(num_threads=num_threads), evaluate())


@pytest.mark.parametrize(("draw", "key"), [(train, "image"), (features, "features")])
def test_batches_and_epochs_differ(draw, key):
    """The authors' single-process sampler repeats its order every epoch."""
    batches = [*draw(num_batches=6), *draw(seed=4, num_batches=1)]
    assert len({batch[key].tobytes() for batch in batches}) == 7


def test_an_example_can_be_made_again():
    """Row 3 of step 2 is draw 15 of the run: draw 4 of epoch 1 of 11 images."""
    batch = train(num_batches=3)[2]
    key = (3, examples._PIXEL_STREAM, 1, 4)
    candidates = [
        TRANSFORM(read(index), np.random.default_rng(key))
        for index in np.flatnonzero(batch["label"][3] == LABELS)
    ]
    assert any((batch["image"][3] == candidate).all() for candidate in candidates)


def test_evaluation_visits_every_image_once_in_order():
    batches = evaluate()
    masks = np.concatenate([batch["mask"] for batch in batches])
    assert len(batches) == 3 and masks.dtype == bool
    assert masks.tolist() == [True] * 11 + [False]
    labels = np.concatenate([batch["label"] for batch in batches])
    np.testing.assert_array_equal(labels[masks], LABELS)
    transform = transforms.eval_transform("clip", 8)
    images = np.concatenate([batch["image"] for batch in batches])
    for index, image in enumerate(images[masks]):
        np.testing.assert_array_equal(image, transform(read(index)))


@pytest.mark.parametrize("process_count", [2, 4])
def test_every_process_evaluates_as_many_batches(process_count):
    """Five images and batches of four leave whole processes to padding."""
    split = SPLIT.select(np.arange(5))
    shares = [
        evaluate(split=split, process_index=index, process_count=process_count)
        for index in range(process_count)
    ]
    assert {len(share) for share in shares} == {2}
    assert_same(joined(shares), evaluate(split=split))


@pytest.mark.parametrize("options", [{"process_count": 4}, {"batch_size": 0}])
def test_sizes_that_do_not_fit(options):
    with pytest.raises(BatchSizeError):
        train(**options)


def test_a_batch_reads_its_own_images_only():
    """At any step, which takes constant time: sampling knows labels alone."""
    reads = []

    def count(index):
        reads.append(index)
        return read(index)

    split = split_of(count)
    train(split=split, num_batches=2, num_threads=0, start_step=10**12)
    assert len(reads) == 12
