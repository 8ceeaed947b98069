"""Weights of images, and draws of images and sentences."""

import numpy as np
import pytest

from vl_ltr_jax.data.batches.sampler import (
    BatchSampler,
    SamplerError,
    sample_probabilities,
)
from worlds.golden import load

GOLDEN = load("sampler/sampler.npz")
RULES = {"plain": "class_balanced", "sqrt": "sqrt"}


@pytest.mark.parametrize("case", ["c0", "c1", "c2"])
@pytest.mark.parametrize("rule", RULES)
def test_probabilities_equal_the_golden(case, rule):
    """n_c^-1 for n_c^-1/2 doubles the slope of the class probabilities."""
    labels = GOLDEN[f"{case}/targets"]
    result = sample_probabilities(labels, RULES[rule])
    golden = GOLDEN[f"{case}/{rule}/sample_probability"]
    np.testing.assert_allclose(result, golden, rtol=1e-6)
    counts = GOLDEN[f"{case}/class_counts"]
    mass = np.bincount(labels, weights=result, minlength=len(counts))
    golden = GOLDEN[f"{case}/{rule}/class_probability"]
    np.testing.assert_allclose(mass, golden, rtol=1e-6)


def test_uniform_weighs_images_alike():
    result = sample_probabilities(np.array([0, 0, 0, 2]), "uniform")
    np.testing.assert_allclose(result, [0.25] * 4)


def sampler(labels, sentence_labels=None, *, batch_size=8, seed=0, sampling="sqrt"):
    return BatchSampler(
        np.asarray(labels, np.int32),
        sampling=sampling,
        batch_size=batch_size,
        seed=seed,
        sentence_labels=None if sentence_labels is None else np.array(sentence_labels),
    )


@pytest.mark.parametrize("sampling", ["uniform", "sqrt", "class_balanced"])
def test_draws_follow_the_probabilities(sampling):
    """A search that is off by one shifts every frequency."""
    labels = np.repeat([0, 1, 3], [9, 4, 1])
    images, _ = sampler(labels, batch_size=200_000, sampling=sampling).draw(0)
    frequency = np.bincount(images, minlength=14) / 200_000
    expected = sample_probabilities(labels, sampling)
    assert (abs(frequency - expected) < 5 * np.sqrt(expected / 200_000)).all()


def test_sentences_are_uniform_within_the_class_of_the_image():
    labels = [2, 0, 0, 2]
    sentence_labels = np.repeat([0, 1, 2], [3, 2, 5])
    draw = sampler(labels, sentence_labels, batch_size=100_000).draw(0)
    np.testing.assert_array_equal(
        np.array(labels)[draw.images], sentence_labels[draw.sentences]
    )
    counts = np.bincount(draw.sentences, minlength=10)
    assert (counts[3:5] == 0).all()
    for first, end in ((0, 3), (5, 10)):
        expected = counts[first:end].mean()
        assert (abs(counts[first:end] - expected) < 5 * np.sqrt(expected)).all()


def test_draws_depend_on_seed_and_step():
    draws = {
        key: tuple(sampler(range(100), range(100), seed=key[0]).draw(key[1]).images)
        for key in ((0, 0), (0, 1), (1, 0), (1, 1))
    }
    assert len(set(draws.values())) == 4
    assert tuple(sampler(range(100), range(100)).draw(1).images) == draws[0, 1]


@pytest.mark.parametrize(
    ("labels", "sentence_labels", "error"),
    [
        ([], None, SamplerError),
        ([0, 1], [1, 0], ValueError),
        ([0, 2, 3], [0, 0, 1, 3], SamplerError),
        ([0, 2], [0], SamplerError),
    ],
)
def test_impossible_draws(labels, sentence_labels, error):
    with pytest.raises(error):
        sampler(labels, sentence_labels)
    with pytest.raises(ValueError, match="class_balanced"):
        sample_probabilities(np.zeros(3, int), "balanced")
    sampler([0, 2], [0, 2, 2])  # class 1, without images, needs no sentence
