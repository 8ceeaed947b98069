"""Scores of images against texts and against other images."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vl_ltr_jax.method.losses import unit

BLOCK_SIZE = 8192  # sentences that images are compared with at a time
_GROUP = 16  # of these, one of which stands for all until the nearest are known


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
