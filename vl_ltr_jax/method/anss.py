"""Anchor sentence selection (AnSS): the M sentences that fit a class's images best.

The score of sentence j of class c over the images I' is the paper's L_lin,
-mean_{i in c} log softmax_i(s t_j.e_i). The mean of logits over a class is the logit
against the class's mean unit embedding, so

    score_j = logsumexp_i(s t_j.e_i) - s t_j.mean_{i in c}(e_i),

and only the logsumexp needs the product of all sentences with all images; it streams.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from vl_ltr_jax.method.losses import unit
from vl_ltr_jax.runtime.errors import UserError

SELECTIONS = ("anss", "cutoff", "random")
# Sentences and images compared at a time: 5 MiB of logits, which stay in a cache.
BLOCKS = (1024, 1280)


class ScoreError(UserError):
    """Scores of sentences that are NaN: the towers have diverged."""


def score_sentences(
    sentence_emb: Float[Array | np.ndarray, "S D"],
    sentence_labels: Int[Array | np.ndarray, " S"],
    image_emb: Float[Array | np.ndarray, "N D"],
    image_labels: Int[Array | np.ndarray, " N"],
    logit_scale: Float[Array | np.ndarray, ""] | float,
    *,
    num_classes: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
    blocks: tuple[int, int] = BLOCKS,
) -> Float[Array, " S"]:
    """Scores every sentence against the images of its class; lower is better.

    Beyond copies of the inputs, memory is that of one pair of blocks on each device: no
    S x N array exists.

    Differs from VL-LTR: scores are float32 on every device, and a class without images
    scores +inf, where the authors get NaN.

    Args:
      sentence_emb: sentence embeddings, of any length.
      sentence_labels: class of each sentence; negative for padding, which scores +inf.
      image_emb: image embeddings, of any length.
      image_labels: class of each image; negative for padding, which has no effect.
      logit_scale: logarithm of the inverse temperature s.
      num_classes: C; by default one more than the largest label.
      mesh: devices; `data` divides the images and `model` the sentences. One device by
        default.
      blocks: sentences, and images, compared at a time.
    """
    if num_classes is None:
        num_classes = 1 + int(max(jnp.max(sentence_labels), jnp.max(image_labels)))
    score = compiled(num_classes, mesh, blocks)
    return score(sentence_emb, sentence_labels, image_emb, image_labels, logit_scale)


@functools.lru_cache(maxsize=8)
def compiled(
    num_classes: int,
    mesh: jax.sharding.Mesh | None = None,
    blocks: tuple[int, int] = BLOCKS,
) -> Callable[..., Array]:
    """Returns :func:`score_sentences` of five arrays as one program."""
    local = functools.partial(_local_scores, num_classes=num_classes, blocks=blocks)
    if mesh is None:
        return jax.jit(local)
    sentences, images = PartitionSpec("model"), PartitionSpec("data")
    over_mesh = jax.shard_map(
        functools.partial(
            local,
            over_images=functools.partial(jax.lax.psum, axis_name="data"),
            largest=functools.partial(jax.lax.pmax, axis_name="data"),
        ),
        mesh=mesh,
        in_specs=(sentences, sentences, images, images, PartitionSpec()),
        out_specs=sentences,
        check_vma=False,  # a loop starts with constants, the same on every device
    )
    return jax.jit(over_mesh)


def _local_scores(
    sentence_emb: Array,
    sentence_labels: Array,
    image_emb: Array,
    image_labels: Array,
    logit_scale: Array | float,
    *,
    num_classes: int,
    blocks: tuple[int, int],
    over_images: Callable[[Array], Array] = lambda local: local,
    largest: Callable[[Array], Array] = lambda local: local,
) -> Array:
    """Returns scores of one device's sentences.

    The last two arguments are the sum and the maximum over the images of all devices.
    """
    scale, images = jnp.exp(jnp.float32(logit_scale)), unit(image_emb)
    sentence_block, image_block = blocks
    real = image_labels >= 0
    classes = jnp.where(real, image_labels, num_classes)  # out of bounds: dropped
    counts = over_images(
        jax.ops.segment_sum(jnp.ones(len(images)), classes, num_classes)
    )
    sums = over_images(jax.ops.segment_sum(images, classes, num_classes))
    class_means = sums / jnp.maximum(counts, 1)[:, None]
    image_blocks = _blocks(images, image_block)
    masks = _blocks(jnp.where(real, 0.0, -jnp.inf), image_block, fill=-jnp.inf)

    def log_sum_exp(sentences: Array) -> Array:
        queries = scale * unit(sentences)

        def accumulate(total: Array, block: tuple[Array, Array]) -> tuple[Array, None]:
            images, mask = block
            logits = jnp.matmul(queries, images.T, precision="highest")
            part = jax.nn.logsumexp(logits + mask[None, :], axis=1)
            return jnp.logaddexp(total, part), None

        start = jnp.full(len(sentences), -jnp.inf)
        return jax.lax.scan(accumulate, start, (image_blocks, masks))[0]

    parts = jax.lax.map(log_sum_exp, _blocks(sentence_emb, sentence_block))
    parts = parts.reshape(-1)[: len(sentence_emb)]
    highest = largest(parts)
    total = highest + jnp.log(over_images(jnp.exp(parts - highest)))
    # In blocks: a class mean for every sentence would be a second [S, D].
    own = jax.lax.map(
        lambda block: jnp.sum(unit(block[0]) * class_means[block[1]], axis=1),
        (
            _blocks(sentence_emb, sentence_block),
            _blocks(sentence_labels, sentence_block),
        ),
    ).reshape(-1)[: len(sentence_emb)]
    scored = (sentence_labels >= 0) & (counts[sentence_labels] > 0)
    return jnp.where(scored, total - scale * own, jnp.inf)


def _blocks(array: Array, size: int, fill: float = 0) -> Array:
    """Returns [n, ...] as [blocks, size, ...]; the last block is padded."""
    num_blocks = -(-len(array) // size)
    size = -(-len(array) // num_blocks)
    width = [(0, num_blocks * size - len(array))] + [(0, 0)] * (array.ndim - 1)
    array = jnp.pad(array, width, constant_values=fill)
    return array.reshape(num_blocks, size, *array.shape[1:])


def select_anchors(
    scores: Float[np.ndarray, " S"],
    sentence_labels: Int[np.ndarray, " S"],
    num_classes: int,
    num_anchors: int,
    *,
    selection: str = "anss",
    seed: int = 0,
) -> tuple[Int[np.ndarray, "C M"], Bool[np.ndarray, "C M"]]:
    """Chooses M sentences per class.

    Args:
      scores: score of each sentence, lower is better; only 'anss' reads them.
      sentence_labels: class of each sentence.
      num_classes: C.
      num_anchors: M.
      selection: 'anss', the lowest scores, with ties in the order of the sentences;
        'cutoff', the first M; 'random', any M.
      seed: seed of 'random'.

    Returns:
      Indices of the sentences, best first, and a mask that is True where a class has
      fewer than M; the index there is 0.

    Raises:
      ScoreError: a score is NaN.
    """
    if selection == "anss" and np.isnan(scores).any():
        raise ScoreError(
            f"{np.isnan(scores).sum()} of {len(scores)} scores are NaN, first of "
            f"sentence {np.isnan(scores).argmax()}. Check the embeddings"
        )
    keys = {
        "anss": lambda: scores,
        "cutoff": lambda: np.zeros(len(scores)),
        "random": lambda: np.random.default_rng(seed).random(len(scores)),
    }[selection]()
    order = np.lexsort((keys, sentence_labels))
    labels = sentence_labels[order]
    place = _place_in_class(labels)
    is_anchor = place < num_anchors
    indices = np.zeros((num_classes, num_anchors), np.int64)
    padding = np.ones((num_classes, num_anchors), bool)
    slots = labels[is_anchor], place[is_anchor]
    indices[slots] = order[is_anchor]
    padding[slots] = False
    return indices, padding


def cap_images_per_class(
    labels: Int[np.ndarray, " N"], max_per_class: int
) -> Int[np.ndarray, " n"]:
    """Returns ascending indices of the first `max_per_class` images of each class."""
    order = np.argsort(labels, kind="stable")
    return np.sort(order[_place_in_class(labels[order]) < max_per_class])


def _place_in_class(sorted_labels: np.ndarray) -> np.ndarray:
    """Returns the position of each entry among those of its label; labels ascend."""
    first = np.searchsorted(sorted_labels, sorted_labels, side="left")
    return np.arange(len(sorted_labels)) - first
