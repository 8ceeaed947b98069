"""Accuracies of branches, zero-shot scores and nearest sentences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vl_ltr_jax.evaluate import accuracy
from vl_ltr_jax.evaluate import scores as evaluate_scores
from vl_ltr_jax.method import shots
from worlds import golden

TWO_BRANCH = golden.load("eval/two_branch.npz")
EXPECTED = golden.load("eval/two_branch.json")
PRETRAIN = golden.load("eval/pretrain.json")
NAMES = {"many": "many", "median": "medium", "low": "few"}


def sums_of(scores, labels, batch_size):
    """Evaluates in batches of one shape, the last one padded with false labels."""
    sums = accuracy.AccuracySums.zeros(scores.shape[1])
    update = jax.jit(accuracy.update)
    for start in range(0, len(labels), batch_size):
        part = np.asarray(scores[start : start + batch_size])
        missing = batch_size - len(part)
        sums = update(
            sums,
            jnp.pad(part, ((0, missing), (0, 0))),
            jnp.pad(labels[start : start + batch_size], (0, missing)).astype(jnp.int32),
            jnp.arange(batch_size) < len(part),
        )
    return jax.tree.map(np.asarray, sums)


def votes(images, sentences, labels, num_classes, k=5, **options):
    nearest = evaluate_scores.nearest_sentences(images, sentences, labels, k, **options)
    return evaluate_scores.knn_votes(*nearest, num_classes)


def check(sums, expected, train_counts, prefix=""):
    hits, counts = sums.top1_correct, train_counts
    accuracies = shots.shot_accuracies(hits, sums.total, counts, "vl_ltr")
    for theirs, ours in NAMES.items():
        assert accuracies[ours] == pytest.approx(expected[prefix + theirs], rel=1e-6)


def top(sums, k=1):
    correct = sums.top1_correct if k == 1 else sums.top5_correct
    return 100 * correct.sum() / sums.total.sum()


@pytest.mark.parametrize("batch_size", [32, 1000])
@pytest.mark.parametrize(
    ("name", "alpha"), [("IMNET_LT", 0.2), ("PLACES_LT", 0.2), ("INAT", 0.7)]
)
def test_two_branches_match_vl_ltr(name, alpha, batch_size):
    """Breaks when alpha weighs the language branch, when padding is counted, or when
    shot accuracies come from the mixture (42.0 becomes 44.0).
    """
    expected = EXPECTED[f"{name}_batch{batch_size}"]
    labels, counts = TWO_BRANCH["labels"], TWO_BRANCH["train_class_count"]
    visual, language = (jnp.asarray(TWO_BRANCH[f"logits{i}"]) for i in (0, 1))
    mixed = accuracy.mixture(visual, language, alpha)
    np.testing.assert_allclose(mixed, TWO_BRANCH[f"ensemble_prob_{name}"], rtol=2e-5)
    for scores, key in ((visual, "acc0_"), (language, "acc1_"), (mixed, "acc")):
        sums = sums_of(scores, labels, batch_size)
        assert top(sums) == pytest.approx(expected[key + "1"], rel=1e-6)
        assert top(sums, 5) == pytest.approx(expected[key + "5"], rel=1e-6)
    summed = sums_of(accuracy.sum_of_logits(visual, language), labels, batch_size)
    check(summed, expected, counts)
    np.testing.assert_allclose(
        summed.top1_correct / summed.total,
        TWO_BRANCH[f"class_acc_{name}_batch{batch_size}"],
    )


def test_single_branch_matches_vl_ltr():
    """Breaks with the mean of batch means: 203 images leave a batch of 11."""
    expected = EXPECTED["single_branch_batch32"]
    sums = sums_of(TWO_BRANCH["logits0"], TWO_BRANCH["labels"], 32)
    assert top(sums) == pytest.approx(expected["acc1"], rel=1e-6)
    assert top(sums, 5) == pytest.approx(expected["acc5"], rel=1e-6)
    check(sums, expected, TWO_BRANCH["train_class_count"])


@pytest.mark.parametrize("texts", ["sentences", "ensemble"])
@pytest.mark.parametrize("case", [0, 1])
def test_towers_match_vl_ltr(case, texts):
    """Zero-shot, nearest neighbours and text retrieval of the pre-trained towers.

    Breaks when class means are not of length 1, or ties of votes go to the lowest
    class. Breaks when a block of sentences forgets earlier neighbours.
    """
    arrays = golden.load(f"eval/pretrain_case{case}.npz")
    expected = PRETRAIN[f"case{case}_{texts}"]
    counts, labels = arrays["train_class_count"], arrays["image_targets"]
    images = jnp.asarray(arrays["image_embeddings"])
    sentences = jnp.asarray(arrays["text_embeddings"])
    sentence_labels = jnp.asarray(arrays["text_targets"], jnp.int32)
    if texts == "ensemble":
        sentences = evaluate_scores.class_embeddings(
            sentences, sentence_labels, len(counts)
        )
        sentence_labels = jnp.arange(len(counts))
        scores = evaluate_scores.zero_shot_scores(images, sentences)
        order = jnp.argsort(-scores, axis=1, stable=True)[:, :5]
        top5 = arrays[f"case{case}_ensemble/top5_text_index_per_image"]
        np.testing.assert_array_equal(order, top5)
        sums = sums_of(scores, labels, 50)
        assert top(sums) == pytest.approx(expected["image_acc1"], rel=1e-6)
        check(sums, expected, counts)

    def vote(queries, keys, key_labels, k):
        return votes(queries, keys, key_labels, len(counts), k, block_size=16)

    nearest = sums_of(vote(images, sentences, sentence_labels, 1), labels, 50)
    assert top(nearest) == pytest.approx(expected["image_acc1"], rel=1e-6)
    check(nearest, expected, counts)
    five = sums_of(vote(images, sentences, sentence_labels, 5), labels, 50)
    assert top(five) == pytest.approx(expected["knn_5"], rel=1e-6)
    check(five, expected, counts, "knn_")
    scores = vote(sentences, images, jnp.asarray(labels, jnp.int32), 1)
    retrieved = sums_of(scores, np.asarray(sentence_labels), 50)
    assert top(retrieved) == pytest.approx(expected["text_acc1"], rel=1e-6)


def test_equal_scores_rank_by_class_and_nan_never_hits():
    scores = jnp.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [jnp.nan, 2.0, 1.0]])
    sums = sums_of(scores, np.array([0, 1, 1]), 3)
    assert sums.top1_correct.tolist() == [1, 0, 0]
    assert sums.top5_correct.tolist() == [1, 1, 0]
    assert sums.total.tolist() == [1, 2, 0]


def test_votes_tie_towards_the_most_similar_sentence():
    """Labels of the neighbours, nearest first: 2, 0, 0, 2, 1."""
    angles = jnp.array([0.1, 0.2, 0.3, 0.4, 0.5, 3.0])
    sentences = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    labels = jnp.array([2, 0, 0, 2, 1, 3])
    for block_size in (4, 100):
        image = jnp.array([[2.0, 0.0]])
        scores = votes(image, sentences, labels, 4, block_size=block_size)
        assert jnp.argsort(-scores[0]).tolist() == [2, 0, 1, 3]
        assert jnp.floor(scores[0]).tolist() == [2.0, 1.0, 2.0, 0.0]


def test_class_without_sentences_scores_zero():
    sentences, labels = jnp.eye(2), jnp.array([0, 2])
    class_emb = evaluate_scores.class_embeddings(sentences, labels, 3)
    scores = evaluate_scores.zero_shot_scores(jnp.array([[3.0, 4.0]]), class_emb)
    np.testing.assert_allclose(scores, [[0.6, 0.0, 0.8]], rtol=1e-6)


@pytest.mark.parametrize(
    ("num_sentences", "k", "block_size"),
    [(1, 5, 8192), (3, 5, 2), (37, 5, 16), (100, 7, 48), (100, 5, 7), (64, 5, 64)],
)
def test_neighbours_by_blocks_and_groups_are_those_of_a_sort(
    num_sentences, k, block_size
):
    """Many sentences stand twice, some are padding.

    Breaks when a block that begins early counts a sentence twice, or padding keeps its
    class. Breaks when groups of equal maximum lose the sentences' order.
    """
    rng = np.random.default_rng(num_sentences)
    distinct = rng.standard_normal((num_sentences // 2 + 1, 6), np.float32)
    sentences = distinct[rng.integers(0, len(distinct), num_sentences)]
    images = rng.standard_normal((9, 6), np.float32)
    labels = rng.integers(-1, 20, num_sentences).astype(np.int32)
    cosines, classes = evaluate_scores.nearest_sentences(
        *map(jnp.asarray, (images, sentences, labels)), k, block_size=block_size
    )
    image_norm = np.linalg.norm(images, axis=1)[:, None]
    lengths = image_norm * np.linalg.norm(sentences, axis=1)
    exact = np.where(labels >= 0, images @ sentences.T / lengths, -np.inf)
    # Copies of a sentence are equal only before rounding.
    order = np.argsort(-exact.round(5), axis=1, kind="stable")[:, :k]
    expected = np.take_along_axis(exact, order, axis=1)
    np.testing.assert_allclose(cosines, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(classes, labels[order])


def test_an_embedding_that_is_not_a_number_is_no_prediction():
    """Breaks when votes forget the cosines they come from."""
    images, labels = jnp.eye(3, 4).at[1].set(jnp.nan), jnp.arange(3)
    sums = sums_of(votes(images, jnp.eye(3, 4), labels, 3, 2), labels, 3)
    assert sums.invalid.tolist() == [0, 1, 0]
