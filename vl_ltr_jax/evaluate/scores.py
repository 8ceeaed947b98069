"""Scores of images against texts and against other images."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vl_ltr_jax.method.losses import unit

BLOCK_SIZE = 8192  # sentences compared at a time
_GROUP = 16  # sentences of a block that are ranked by their maximum first


def class_embeddings(
    sentence_emb: Float[Array, "S D"],
    sentence_labels: Int[Array, " S"],
    num_classes: int,
) -> Float[Array, "{num_classes} D"]:
    """Returns each class's unit mean of unit embeddings; 0 without sentences."""
    sums = jax.ops.segment_sum(unit(sentence_emb), sentence_labels, num_classes)
    return unit(sums)


def zero_shot_scores(
    image_emb: Float[Array, "b D"], class_emb: Float[Array, "C D"]
) -> Float[Array, "b C"]:
    """Returns cosines to the text of each class, see :func:`class_embeddings`."""
    return jnp.matmul(unit(image_emb), unit(class_emb).T, precision="highest")


def nearest_sentences(
    image_emb: Float[Array, "b D"],
    sentence_emb: Float[Array, "S D"],
    sentence_labels: Int[Array, " S"],
    k: int,
    *,
    block_size: int = BLOCK_SIZE,
) -> tuple[Float[Array, "b k"], Int[Array, "b k"]]:
    """Returns cosines and classes of the k most similar sentences, nearest first.

    Embeddings may have any length. Labels are negative for padding, which ranks last
    with cosine -inf. `block_size` sentences are compared at a time.
    """
    queries, k = unit(image_emb), min(k, len(sentence_labels))
    num_sentences = len(sentence_labels)
    block_size = min(block_size, num_sentences)
    group = math.gcd(block_size, _GROUP)
    num_groups = min(k, block_size // group)

    def visit(
        best: tuple[Array, Array], first: Array
    ) -> tuple[tuple[Array, Array], None]:
        # The last block begins early and skips sentences of the block before.
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
        # The k highest lie in the k groups with the highest maxima. Of equal ones the
        # first group, and its first sentence, comes first.
        groups = cosines.reshape(-1, group, len(queries))
        _, chosen = jax.lax.top_k(groups.max(axis=1).T, num_groups)
        chosen = jnp.sort(chosen, axis=1)  # candidates in the sentences' order
        rows = jnp.arange(len(queries))[:, None]
        candidates = groups[chosen, :, rows].reshape(len(queries), -1)
        labels = jnp.where(counted, labels, -1)
        owners = labels.reshape(-1, group)[chosen].reshape(len(queries), -1)
        # Earlier blocks come first, so that equal cosines keep the sentences' order.
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
    """Returns the votes of :func:`nearest_sentences`, plus a fraction below 1 by rank.

    Of classes with equally many votes, that of the most similar sentence ranks first,
    as in the authors' code. A NaN cosine makes all votes NaN.
    """
    rows, k = jnp.arange(len(nearest))[:, None], nearest.shape[1]
    shape = (len(nearest), num_classes)
    nearest = jnp.where(nearest < 0, num_classes, nearest)  # out of bounds: dropped
    votes = jnp.zeros(shape).at[rows, nearest].add(1.0, mode="drop")
    closeness = jnp.arange(k, 0, -1, dtype=jnp.float32)[None, :] / (k + 1)
    closest = jnp.zeros(shape).at[rows, nearest].max(closeness, mode="drop")
    invalid = jnp.isnan(cosines).any(axis=1, keepdims=True)
    return jnp.where(invalid, jnp.nan, votes + closest)
