from pathlib import Path

import jax
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vl_ltr_jax import anss

GOLDEN = Path(__file__).parent / "golden" / "anss"


def arguments(golden):
    names = ("text_embeddings", "text_targets", "image_embeddings", "image_targets")
    return [golden[name] for name in (*names, "logit_scale")]


@pytest.mark.parametrize("block_size", [4, 4096])
@pytest.mark.parametrize("case", ["basic", "missing_class"])
def test_scores_match_vl_ltr(case, block_size):
    """Breaks when the softmax runs over the images of the class alone, or when class
    means are normalised again.

    Where the authors get NaN (a class without images) the score is +inf.
    """
    golden = np.load(GOLDEN / f"{case}.npz")
    scores = anss.score_sentences(*arguments(golden), block_size=block_size)
    for name in ("sentence_ce", "f64/sentence_ce"):
        expected = np.nan_to_num(golden[name], nan=np.inf)
        np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_streamed_scores_equal_the_plain_formula():
    """Breaks when the images that fill up a block enter the softmax: 12 for 10."""
    rng = np.random.default_rng(1)
    sentences, images = rng.normal(size=(7, 6)), rng.normal(size=(10, 6))
    labels, image_labels = np.array([0, 0, 1, 1, 1, 2, 2]), np.arange(10) % 3
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (sentences, images)]
    logits = np.exp(0.5) * unit[0] @ unit[1].T
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = [-log_p[j, image_labels == c].mean() for j, c in enumerate(labels)]
    scores = anss.score_sentences(
        sentences.astype(np.float32),
        labels,
        images.astype(np.float32),
        image_labels,
        0.5,
        block_size=4,
    )
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


@pytest.mark.parametrize("case", ["basic", "missing_class"])
def test_anchors_match_vl_ltr(case):
    """Breaks when the order is descending, or when a class without images, whose
    sentences all tie, does not take its first M.
    """
    golden = np.load(GOLDEN / f"{case}.npz")
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


def test_sharded_sentences_score_as_on_one_device():
    rng = np.random.default_rng(0)
    sentences = rng.normal(size=(64, 16)).astype(np.float32)
    images = rng.normal(size=(50, 16)).astype(np.float32)
    sentence_labels, image_labels = np.arange(64) // 8, np.arange(50) % 8
    rest = (images, image_labels, 3.0)
    expected = anss.score_sentences(sentences, sentence_labels, *rest)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    sharded = jax.device_put((sentences, sentence_labels), rows)
    actual = anss.score_sentences(*sharded, *rest, block_size=16)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def intermediate_sizes(jaxpr):
    for equation in jaxpr.eqns:
        yield from (np.prod(out.aval.shape) for out in equation.outvars)
        for inner in jaxprs_in_params(equation.params):
            yield from intermediate_sizes(inner)


def test_no_product_of_all_sentences_and_images_exists():
    """Breaks when one side is no longer streamed: 600 x 500 = 300,000 entries."""
    sentences, images = np.ones((600, 4), np.float32), np.ones((500, 4), np.float32)
    labels = np.zeros(600, np.int32), np.zeros(500, np.int32)
    jaxpr = jax.make_jaxpr(
        lambda s, i: anss._scores(
            s, labels[0], i, labels[1], 1.0, num_classes=1, block_size=50
        )
    )(sentences, images)
    assert max(intermediate_sizes(jaxpr.jaxpr)) <= 50 * 50 * 2


def test_selections_by_name():
    scores = np.array([3.0, 1.0, 2.0, 0.0, 5.0, 4.0], np.float32)
    labels = np.array([0, 0, 0, 0, 2, 2])
    choose = {
        name: anss.select_anchors(scores, labels, 3, 2, selection=name, seed=3)
        for name in anss.SELECTIONS
    }
    assert choose["anss"][0].tolist() == [[3, 1], [0, 0], [5, 4]]
    assert choose["cutoff"][0].tolist() == [[0, 1], [0, 0], [4, 5]]
    for indices, padding in choose.values():
        assert padding.tolist() == [[False, False], [True, True], [False, False]]
        assert set(indices[2]) == {4, 5}
    again = anss.select_anchors(scores, labels, 3, 2, selection="random", seed=3)
    np.testing.assert_array_equal(again[0], choose["random"][0])
    drawn = {
        tuple(
            anss.select_anchors(scores, labels, 3, 2, selection="random", seed=s)[0][0]
        )
        for s in range(100)
    }
    assert len(drawn) == 12  # every ordered pair of four sentences


def test_unsorted_labels_and_ties_keep_the_order_of_sentences():
    indices, _ = anss.select_anchors(
        np.zeros(5, np.float32), np.array([1, 0, 1, 0, 1]), 2, 2
    )
    assert indices.tolist() == [[1, 3], [0, 2]]


def test_cap_keeps_the_first_images_of_each_class():
    kept = anss.cap_images_per_class(np.array([1, 0, 1, 1, 0, 2]), 2)
    assert kept.tolist() == [0, 1, 2, 4, 5]
    assert len(anss.cap_images_per_class(np.zeros(0, np.int64), 2)) == 0


def test_errors_name_what_is_wrong():
    scores, labels = np.array([1.0, np.nan], np.float32), np.array([0, 1])
    with pytest.raises(ValueError, match="1 of 2 scores are NaN.*sentence 1"):
        anss.select_anchors(scores, labels, 2, 1)
    with pytest.raises(ValueError, match="from 0 to 1; allowed are 0 to 0"):
        anss.select_anchors(scores, labels, 1, 1)
    with pytest.raises(ValueError, match="'best'.*'anss', 'cutoff', 'random'"):
        anss.select_anchors(scores, labels, 2, 1, selection="best")
    with pytest.raises(ValueError, match="2 sentences .* 0 images"):
        anss.score_sentences(
            np.ones((2, 3), np.float32),
            labels,
            np.ones((0, 3), np.float32),
            np.zeros(0, np.int64),
            1.0,
        )
