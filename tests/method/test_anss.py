"""Scores of sentences and the choice of anchors: the authors' numbers, and meshes."""

import jax
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from vl_ltr_jax.method import anss
from vl_ltr_jax.runtime import mesh as meshes
from worlds.golden import load


def arguments(golden):
    names = ("text_embeddings", "text_targets", "image_embeddings", "image_targets")
    return [golden[name] for name in (*names, "logit_scale")]


@pytest.mark.parametrize("blocks", [(4, 3), (4096, 4096)])
@pytest.mark.parametrize("case", ["basic", "missing_class"])
def test_scores_match_vl_ltr(case, blocks):
    """Breaks when the softmax runs over the images of the class alone or those that
    fill up a block (42 for 40), or when class means are normalised again.

    Where the authors get NaN (a class without images) the score is +inf.
    """
    golden = load(f"anss/{case}.npz")
    scores = anss.score_sentences(*arguments(golden), blocks=blocks)
    for name in ("sentence_ce", "f64/sentence_ce"):
        expected = np.nan_to_num(golden[name], nan=np.inf)
        np.testing.assert_allclose(scores, expected, rtol=1e-5)


@pytest.mark.parametrize("case", ["basic", "missing_class"])
def test_anchors_match_vl_ltr(case):
    """Breaks when the order is descending, or when a class without images, whose
    sentences all tie, does not take its first M.
    """
    golden = load(f"anss/{case}.npz")
    counts, num_anchors = golden["sentence_counts"], int(golden["M"])
    scores = np.asarray(anss.score_sentences(*arguments(golden)))
    indices, padding = anss.select_anchors(
        scores, golden["text_targets"], len(counts), num_anchors
    )
    starts = np.cumsum(counts) - counts
    in_class = np.where(padding, -1, indices - starts[:, None])
    np.testing.assert_array_equal(in_class, golden["selected_indices"])
    table = np.where(padding[..., None], 0, golden["text_embeddings"][indices])
    np.testing.assert_array_equal(table, golden["selected_embeddings"])


@pytest.mark.parametrize("sizes", [(4, 2), (1, 8)], ids=str)
@pytest.mark.parametrize("counts", [(64, 50, 8), (13, 3, 2), (1, 1, 1), (9, 40, 1)])
def test_on_a_mesh_scores_are_those_of_one_device(counts, sizes):
    """Images over `data`, sentences over `model`, neither divided by it.

    Breaks when padding enters a softmax, or when devices add up their logsumexps.
    """
    num_sentences, num_images, num_classes = counts
    rng = np.random.default_rng(0)
    sentences = rng.normal(size=(num_sentences, 16)).astype(np.float32)
    images = rng.normal(size=(num_images, 16)).astype(np.float32)
    labels = np.sort(np.arange(num_sentences) % num_classes)
    image_labels = np.arange(num_images) % num_classes
    expected = anss.score_sentences(sentences, labels, images, image_labels, 3.0)
    mesh = meshes.make_mesh(*sizes)
    placed = [
        meshes.shard_rows(mesh, array, axis)
        for array, axis in zip(
            (sentences, labels + 1, images, image_labels + 1),
            ("model", "model", "data", "data"),
            strict=True,
        )
    ]
    texts, text_labels, images, image_labels = placed
    arrays = (texts, text_labels - 1, images, image_labels - 1)
    actual = anss.score_sentences(*arrays, 3.0, mesh=mesh, blocks=(5, 4))
    assert np.isinf(np.asarray(actual)[num_sentences:]).all()
    actual = np.asarray(actual)[:num_sentences]
    # A score near 0 is the difference of two terms as large as the scale.
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=5e-6)


def intermediate_sizes(jaxpr):
    for equation in jaxpr.eqns:
        yield from (np.prod(out.aval.shape) for out in equation.outvars)
        for inner in jaxprs_in_params(equation.params):
            yield from intermediate_sizes(inner)


def test_no_product_of_all_sentences_and_images_exists():
    """Breaks when one side is no longer streamed: 600 x 500 = 300,000 entries."""
    sentences, images = np.ones((600, 4), np.float32), np.ones((500, 4), np.float32)
    labels = np.zeros(600, np.int32), np.zeros(500, np.int32)
    scores = anss.compiled(num_classes=1, mesh=None, blocks=(50, 50))
    jaxpr = jax.make_jaxpr(scores)(sentences, labels[0], images, labels[1], 1.0)
    assert max(intermediate_sizes(jaxpr.jaxpr)) <= 50 * 50 * 2


def test_selections_by_name():
    scores = np.array([3.0, 1.0, 2.0, 0.0, 5.0, 4.0], np.float32)
    labels = np.array([0, 0, 0, 0, 2, 2])

    def choose(name, seed=3):
        return anss.select_anchors(scores, labels, 3, 2, selection=name, seed=seed)

    assert choose("anss")[0].tolist() == [[3, 1], [0, 0], [5, 4]]
    assert choose("cutoff")[0].tolist() == [[0, 1], [0, 0], [4, 5]]
    for name in anss.SELECTIONS:
        indices, padding = choose(name)
        assert padding.tolist() == [[False, False], [True, True], [False, False]]
        assert set(indices[2]) == {4, 5}
        np.testing.assert_array_equal(indices, choose(name)[0])
    pairs = {tuple(choose("random", seed)[0][0]) for seed in range(100)}
    assert len(pairs) == 12  # every ordered pair of four sentences


def test_unsorted_labels_and_ties_keep_the_order_of_sentences():
    indices, _ = anss.select_anchors(
        np.zeros(5, np.float32), np.array([1, 0, 1, 0, 1]), 2, 2
    )
    assert indices.tolist() == [[1, 3], [0, 2]]


def test_cap_keeps_the_first_images_of_each_class():
    indices = anss.cap_images_per_class(np.array([1, 0, 1, 1, 0, 2]), 2)
    assert indices.tolist() == [0, 1, 2, 4, 5]
    assert len(anss.cap_images_per_class(np.zeros(0, np.int64), 2)) == 0


def test_nan_scores_are_refused():
    scores, labels = np.array([1.0, np.nan], np.float32), np.array([0, 1])
    with pytest.raises(anss.ScoreError, match="sentence 1"):
        anss.select_anchors(scores, labels, 2, 1)
