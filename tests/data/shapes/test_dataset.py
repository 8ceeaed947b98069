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


@pytest.fixture(scope="module")
def looks():
    return dataset.class_looks(np.random.default_rng([0, 0]))


def words_of_looks():
    """Every single word that names looks."""
    forms = [word for names in NOUNS.values() for word in names]
    for values in WORDS.values():
        for words in values.values():
            forms += words.everyday + words.learned
    return {part for form in forms for part in re.findall("[a-z]+", form)}


def test_long_tail_and_balanced_evaluation(data):
    counts = data.train_counts
    assert len(counts) == len(data.class_names) == 60
    assert counts.max() / counts.min() == 100 and counts.min() == 3
    assert 3000 <= counts.sum() <= 4000
    groups = shot_groups(counts, "standard")
    assert [int(groups[name].sum()) for name in ("many", "medium", "few")] == [
        15,
        21,
        24,
    ]
    assert np.array_equal(np.bincount(data.val.labels), np.full(60, 10))
    assert np.array_equal(np.bincount(data.test.labels), np.full(60, 25))


def test_classes_are_distinct_and_share_traits(looks):
    traits = [dataset.traits(look) for look in looks]
    assert len(set(traits)) == 60
    distance = np.array([[sum(map(str.__ne__, a, b)) for b in traits] for a in traits])
    np.fill_diagonal(distance, 9)
    assert (distance.min(axis=1) <= 2).mean() > 0.9
    for place, trait in enumerate(TRAITS):
        values, counts = np.unique([t[place] for t in traits], return_counts=True)
        assert len(values) == len(WORDS[trait])
        assert counts.min() >= 2


def test_circumstances_change_and_traits_do_not(looks):
    rng = np.random.default_rng(0)
    seen = [in_circumstances(looks[0], rng) for _ in range(50)]
    assert {dataset.traits(look) for look in seen} == {dataset.traits(looks[0])}
    assert all(map(is_visible, seen))
    for name in set(Looks._fields) - set(TRAITS):
        assert len({getattr(look, name) for look in seen}) > 1


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


def test_pictures_are_drawn_when_read(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        dataset, "render", lambda *args: drawn.append(args) or render(*args)
    )
    split = dataset.load().train
    assert not drawn
    split.read(5)
    split.read(5)
    assert len(drawn) == 1


def test_every_attribute_changes_the_picture(looks):
    calm = Style(clutter=0, specks=0, occlusion=0, shade=0, noise=0)
    for attribute, values in WORDS.items():
        drawn = [
            render(
                looks[0]._replace(**{attribute: value}), calm, np.random.default_rng(1)
            )
            for value in values
        ]
        assert len({pixels.tobytes() for pixels in drawn}) == len(values)


def test_image_size(data):
    assert dataset.load(image_size=64).val.read(0).size == (64, 64)
    assert "val picture 3 of" in data.val.describe(3)
    with pytest.raises(ValueError, match="image_size is 8"):
        dataset.load(image_size=8)


@pytest.mark.parametrize("seed", range(5))
def test_names_tell_nothing_of_looks(seed):
    names = dataset.load(seed).class_names
    assert len(set(names)) == 60
    parts = {part.lower() for name in names for part in name.split()}
    assert not parts & words_of_looks()
    assert all(re.fullmatch("[A-Z][a-z]+ [a-z]+", name) for name in names)


def test_articles_hide_their_looks_behind_other_things(data, looks):
    """Of the first eight sentences few are on looks, of the whole a third."""
    corpus = build_corpus(data.class_names, data.class_texts, "none")
    assert corpus.counts.min() >= 25 and corpus.counts.max() <= 40
    patterns = [
        re.compile(
            re.sub(r"\\\{\w+\\\}", ".+", re.escape(frame)).replace("A\\ ", "An?\\ ")
        )
        for frame in LOOKS_FRAMES
    ]
    visual = np.array(
        [any(p.fullmatch(s) for p in patterns) for s in corpus.sentences], float
    )
    for label in range(60):
        of_class = visual[corpus.labels == label]
        assert 11 <= of_class.sum() <= 13
        assert of_class[:8].sum() == 0
    assert not any("== " in s or "Annals" in s for s in corpus.sentences)
    assert (
        corpus.sentences
        == build_corpus(data.class_names, dataset.load().class_texts, "none").sentences
    )


def test_captions_are_not_the_articles():
    assert not set(CAPTION_FRAMES) & set(LOOKS_FRAMES)
