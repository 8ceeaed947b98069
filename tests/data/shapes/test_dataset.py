"""The embedded long-tailed set."""

import re

import numpy as np
import pytest

from vl_ltr_jax.data.shapes import dataset
from vl_ltr_jax.data.shapes.articles import LOOKS_FRAMES
from vl_ltr_jax.data.shapes.captions import CAPTION_FRAMES
from vl_ltr_jax.data.shapes.looks import (
    NOUNS,
    TRAITS,
    WORDS,
    Looks,
    in_circumstances,
    is_visible,
)
from vl_ltr_jax.data.shapes.render import Style, render
from vl_ltr_jax.data.text.corpus import build_corpus
from vl_ltr_jax.method.shots import shot_groups


@pytest.fixture(scope="module")
def data():
    return dataset.load()


LOOKS = dataset.class_looks(np.random.default_rng([0, 0]))


def test_long_tail_and_balanced_evaluation(data):
    counts = data.train_counts
    assert len(counts) == len(data.class_names) == 60
    assert counts.max() / counts.min() == 100 and counts.min() == 3
    assert 3000 <= counts.sum() <= 4000
    groups = shot_groups(counts, "standard")
    assert [groups[name].sum() for name in ("many", "medium", "few")] == [15, 21, 24]
    assert np.array_equal(np.bincount(data.val.labels), np.full(60, 10))
    assert np.array_equal(np.bincount(data.test.labels), np.full(60, 25))


def test_classes_are_distinct_and_share_traits():
    traits = [dataset.traits(look) for look in LOOKS]
    assert len(set(traits)) == 60
    distance = np.array([[sum(map(str.__ne__, a, b)) for b in traits] for a in traits])
    np.fill_diagonal(distance, 9)
    assert (distance.min(axis=1) <= 2).mean() > 0.9
    for place, trait in enumerate(TRAITS):
        values, counts = np.unique([t[place] for t in traits], return_counts=True)
        assert len(values) == len(WORDS[trait])
        assert counts.min() >= 2


def test_circumstances_change_and_traits_do_not():
    rng = np.random.default_rng(0)
    pictures = [in_circumstances(LOOKS[0], rng) for _ in range(50)]
    assert {dataset.traits(look) for look in pictures} == {dataset.traits(LOOKS[0])}
    assert all(map(is_visible, pictures))
    for name in set(Looks._fields) - set(TRAITS):
        assert len({getattr(look, name) for look in pictures}) > 1


def test_frequency_has_nothing_to_do_with_looks():
    """Over 30 worlds, outlined classes are as frequent as the others."""
    means = []
    for seed in range(30):
        looks = dataset.class_looks(np.random.default_rng([seed, 0]))
        counts = dataset.train_counts(np.random.default_rng([seed, 3]))
        outlined = np.array([look.edge == "outlined" for look in looks])
        means.append(counts[outlined].mean() - counts[~outlined].mean())
    assert abs(np.mean(means)) < 2.5 * np.std(means) / np.sqrt(len(means))


def test_pictures_depend_on_seed_split_and_index_alone(data):
    again = dataset.load()
    for index in (7, 3, 7):
        pixels = np.asarray(data.train.read(index))
        assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8
        assert np.array_equal(pixels, np.asarray(again.train.read(index)))
    first = np.asarray(data.train.read(0), int)
    for other in (data.val.read(0), data.train.read(1), dataset.load(1).train.read(0)):
        assert np.abs(first - np.asarray(other, int)).mean() > 5


def test_every_attribute_changes_the_picture():
    calm = Style(clutter=0, specks=0, occlusion=0, shade=0, noise=0)
    for attribute, values in WORDS.items():
        variants = [LOOKS[0]._replace(**{attribute: value}) for value in values]
        pixels = [render(look, calm, np.random.default_rng(1)) for look in variants]
        assert len({array.tobytes() for array in pixels}) == len(values)


def test_image_size(data):
    assert dataset.load(image_size=64).val.read(0).size == (64, 64)
    assert "val picture 3 of" in data.val.describe(3)
    with pytest.raises(dataset.ShapesError, match="image_size=8"):
        dataset.load(image_size=8)


@pytest.mark.parametrize("seed", range(5))
def test_names_tell_nothing_of_looks(seed):
    names = dataset.load(seed).class_names
    assert len(set(names)) == 60
    forms = [word for nouns in NOUNS.values() for word in nouns]
    for values in WORDS.values():
        forms += [form for words in values.values() for form in sum(words, ())]
    parts = {part.lower() for name in names for part in name.split()}
    assert not parts & set(re.findall("[a-z]+", " ".join(forms)))
    assert all(re.fullmatch("[A-Z][a-z]+ [a-z]+", name) for name in names)


def test_articles_hide_their_looks_behind_other_things(data):
    """The first eight sentences are not on looks; a third of an article is."""
    corpus = build_corpus(data.class_names, data.class_texts, "none")
    assert corpus.counts.min() >= 25 and corpus.counts.max() <= 40
    frames = [re.sub(r"\\\{\w+\\\}", ".+", re.escape(frame)) for frame in LOOKS_FRAMES]
    pattern = re.compile("|".join(frames).replace("A\\ ", "An?\\ "))
    visual = np.array([bool(pattern.fullmatch(s)) for s in corpus.sentences])
    for label in range(60):
        of_class = visual[corpus.labels == label]
        assert 11 <= of_class.sum() <= 13
        assert of_class[:8].sum() == 0
    assert not any("== " in s or "Annals" in s for s in corpus.sentences)
    assert data.class_texts == dataset.load().class_texts
    assert not set(CAPTION_FRAMES) & set(LOOKS_FRAMES)
