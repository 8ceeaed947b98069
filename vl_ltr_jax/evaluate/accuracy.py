"""Scores of images against classes, and hits as masked per-class sums.

Accuracies are ratios of sums over every image of a split: no batch is dropped and no
mean of batch means is taken. A padded row carries mask 0.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Real

from vl_ltr_jax.method.losses import unit

BLOCK_SIZE = 8192  # sentences that images are compared with at a time
_GROUP = 16  # of these, one of which stands for all until the nearest are known


class AccuracySums(NamedTuple):
    """Counts per class over the images seen so far, int32 [C]."""

    top1_correct: Int[Array, " C"]
    top5_correct: Int[Array, " C"]
    total: Int[Array, " C"]
    invalid: Int[Array, " C"]  # images with a score that is NaN

    @classmethod
    def zeros(cls, num_classes: int) -> "AccuracySums":
        """Sums over no images."""
        return cls(*(jnp.zeros(num_classes, jnp.int32) for _ in cls._fields))


class Ranking(NamedTuple):
    """The likeliest classes of each image, and how clear the case was.

    Attributes:
      classes: the k likeliest, best first.
      probabilities: of these.
      margins: log-probability of the true class less that of the best other one.
    """

    classes: Int[Array, "b k"]
    probabilities: Float[Array, "b k"]
    margins: Float[Array, " b"]


def rank(
    probabilities: Float[Array, "b C"], labels: Int[Array, " b"], k: int = 5
) -> Ranking:
    """Ranks classes; of equal ones the lower class comes first, as in :func:`update`.

    Args:
      probabilities: of every class.
      labels: true classes.
      k: how many classes to keep; all where there are fewer.
    """
    num_classes = probabilities.shape[1]
    best, classes = jax.lax.top_k(probabilities, min(k, num_classes))
    logs = jnp.log(jnp.maximum(probabilities, jnp.finfo(jnp.float32).tiny))
    true = jax.nn.one_hot(labels, num_classes, dtype=bool)
    others = jnp.max(jnp.where(true, -jnp.inf, logs), axis=1, initial=-jnp.inf)
    own = jnp.take_along_axis(logs, labels[:, None], axis=1)[:, 0]
    return Ranking(classes.astype(jnp.int32), best, own - others)


def update(
    sums: AccuracySums,
    scores: Float[Array, "b C"],
    labels: Int[Array, " b"],
    mask: Real[Array, " b"] | Bool[Array, " b"],
) -> AccuracySums:
    """Adds one batch.

    Args:
      sums: counts so far.
      scores: the higher, the likelier; of equal scores the lower class ranks first. A
        row with a NaN is a miss, and counted as invalid.
      labels: true classes; anything where the mask is 0.
      mask: 1 for an image, 0 for padding.
    """
    own = jnp.take_along_axis(scores, labels[:, None], axis=1)
    first = jnp.arange(scores.shape[1])[None, :] < labels[:, None]
    rank = jnp.sum((scores > own) | ((scores == own) & first), axis=1)
    counted = mask.astype(bool)
    valid = counted & ~jnp.isnan(scores).any(axis=1)

    def add(total: Array, hits: Array) -> Array:
        return total.at[labels].add(hits.astype(jnp.int32), mode="drop")

    return AccuracySums(
        add(sums.top1_correct, valid & (rank < 1)),
        add(sums.top5_correct, valid & (rank < 5)),
        add(sums.total, counted),
        add(sums.invalid, counted & ~valid),
    )


def class_embeddings(
    sentence_emb: Float[Array, "S D"],
    sentence_labels: Int[Array, " S"],
    num_classes: int,
) -> Float[Array, "{num_classes} D"]:
    """Unit mean of the unit sentence embeddings of each class; 0 without sentences."""
    sums = jax.ops.segment_sum(unit(sentence_emb), sentence_labels, num_classes)
    return unit(sums)


def zero_shot_scores(
    image_emb: Float[Array, "b D"], class_emb: Float[Array, "C D"]
) -> Float[Array, "b C"]:
    """Cosine to the text embedding of each class, see :func:`class_embeddings`."""
    return jnp.matmul(unit(image_emb), unit(class_emb).T, precision="highest")


def knn_scores(
    image_emb: Float[Array, "b D"],
    sentence_emb: Float[Array, "S D"],
    sentence_labels: Int[Array, " S"],
    num_classes: int,
    k: int = 5,
    *,
    block_size: int = BLOCK_SIZE,
) -> Float[Array, "b {num_classes}"]:
    """Votes of the k most similar sentences; their classes rank before all others.

    Of classes with equally many votes, the one met first (the most similar sentence)
    ranks first, as in the authors' code. Sentences are visited in blocks, so memory
    is O(b block_size). With images as sentences and sentences as images this is
    text-to-image retrieval.

    Args:
      image_emb: queries, of any length.
      sentence_emb: embeddings of the sentences, of any length.
      sentence_labels: class of each sentence.
      num_classes: C.
      k: number of votes; fewer where there are fewer sentences.
      block_size: sentences compared at a time.

    Returns:
      The number of votes of each class, plus a fraction below 1 by rank of its first.
    """
    cosines, nearest = nearest_sentences(
        image_emb, sentence_emb, sentence_labels, k, block_size=block_size
    )
    return knn_votes(cosines, nearest, num_classes)


def nearest_sentences(
    image_emb: Float[Array, "b D"],
    sentence_emb: Float[Array, "S D"],
    sentence_labels: Int[Array, " S"],
    k: int,
    *,
    block_size: int = BLOCK_SIZE,
) -> tuple[Float[Array, "b k"], Int[Array, "b k"]]:
    """Cosines and classes of the k most similar sentences, the nearest first.

    Args:
      image_emb: queries, of any length.
      sentence_emb: embeddings of the sentences, of any length.
      sentence_labels: class of each sentence; negative for padding, which is ranked
        last with cosine -inf.
      k: how many; fewer where there are fewer sentences.
      block_size: sentences compared at a time; memory is O(b block_size).
    """
    queries, k = unit(image_emb), min(k, len(sentence_labels))
    num_sentences = len(sentence_labels)
    block_size = min(block_size, num_sentences)
    group = math.gcd(block_size, _GROUP)
    num_groups = min(k, block_size // group)

    def visit(
        best: tuple[Array, Array], first: Array
    ) -> tuple[tuple[Array, Array], None]:
        # The last block begins early and skips what the one before has seen.
        start = jnp.minimum(first, num_sentences - block_size)
        keys, labels = (
            jax.lax.dynamic_slice_in_dim(array, start, block_size)
            for array in (sentence_emb.astype(jnp.float32), sentence_labels)
        )
        counted = (labels >= 0) & (start + jnp.arange(block_size) >= first)
        # Sentences first: XLA's CPU backend multiplies these up to twice as fast. A
        # length for each is cheaper than sentences of length 1.
        squared = jnp.maximum(jnp.sum(keys**2, axis=1), 1e-24)
        cosines = jnp.matmul(keys, queries.T, precision="highest")
        cosines = cosines * jax.lax.rsqrt(squared)[:, None]
        cosines = jnp.where(counted[:, None], cosines, -jnp.inf)
        # The k highest lie in the k groups with the highest maxima; of equal ones the
        # first group, and in it the first sentence, comes first.
        groups = cosines.reshape(-1, group, len(queries))
        _, chosen = jax.lax.top_k(groups.max(axis=1).T, num_groups)
        chosen = jnp.sort(chosen, axis=1)  # candidates in the sentences' order
        rows = jnp.arange(len(queries))[:, None]
        candidates = groups[chosen, :, rows].reshape(len(queries), -1)
        labels = jnp.where(counted, labels, -1)
        owners = labels.reshape(-1, group)[chosen].reshape(len(queries), -1)
        # The best so far come first, so that equal cosines keep the sentences' order.
        merged = jnp.concatenate([best[0], candidates], axis=1)
        values, places = jax.lax.top_k(merged, k)
        owners = jnp.concatenate([best[1], owners], axis=1)
        return (values, jnp.take_along_axis(owners, places, axis=1)), None

    nothing = (
        jnp.full((len(queries), k), -jnp.inf),
        jnp.full((len(queries), k), -1, sentence_labels.dtype),
    )
    return jax.lax.scan(visit, nothing, jnp.arange(0, num_sentences, block_size))[0]


def knn_votes(
    cosines: Float[Array, "b k"], nearest: Int[Array, "b k"], num_classes: int
) -> Float[Array, "b {num_classes}"]:
    """Votes of the classes of :func:`nearest_sentences`, see :func:`knn_scores`.

    Where a cosine is NaN so are all votes: such an embedding has no neighbours.
    """
    rows, k = jnp.arange(len(nearest))[:, None], nearest.shape[1]
    shape = (len(nearest), num_classes)
    nearest = jnp.where(nearest < 0, num_classes, nearest)  # out of bounds: dropped
    votes = jnp.zeros(shape).at[rows, nearest].add(1.0, mode="drop")
    closeness = jnp.arange(k, 0, -1, dtype=jnp.float32)[None, :] / (k + 1)
    closest = jnp.zeros(shape).at[rows, nearest].max(closeness, mode="drop")
    invalid = jnp.isnan(cosines).any(axis=1, keepdims=True)
    return jnp.where(invalid, jnp.nan, votes + closest)


def mixture(
    visual_logits: Float[Array, "b C"],
    language_logits: Float[Array, "b C"],
    alpha: float,
) -> Float[Array, "b C"]:
    """Probabilities alpha softmax(visual) + (1 - alpha) softmax(language).

    The authors' code predicts with alpha 0.2, on iNaturalist 0.7.
    """
    visual = jax.nn.softmax(visual_logits.astype(jnp.float32))
    language = jax.nn.softmax(language_logits.astype(jnp.float32))
    return alpha * visual + (1 - alpha) * language


def sum_of_logits(
    visual_logits: Float[Array, "b C"], language_logits: Float[Array, "b C"]
) -> Float[Array, "b C"]:
    """The scores behind the authors' many-, medium- and few-shot accuracies."""
    return visual_logits.astype(jnp.float32) + language_logits.astype(jnp.float32)
