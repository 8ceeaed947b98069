"""Anchor sentence selection (AnSS): the M sentences of a class its images fit best.

The score of sentence j of class c over the images I' is the paper's L_lin,
-mean_{i in c} log softmax_i(s t_j.e_i). The mean of logits over a class is the logit
against the class's mean unit embedding, so

    score_j = logsumexp_i(s t_j.e_i) - s t_j.mean_{i in c}(e_i),

and only the logsumexp needs the product of all sentences with all images; it streams.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vl_ltr_jax.losses import unit

SELECTIONS = ("anss", "cutoff", "random")


def score_sentences(
    sentence_emb: Float[Array | np.ndarray, "S D"],
    sentence_labels: Int[Array | np.ndarray, " S"],
    image_emb: Float[Array | np.ndarray, "N D"],
    image_labels: Int[Array | np.ndarray, " N"],
    logit_scale: Float[Array | np.ndarray, ""] | float,
    *,
    block_size: int = 4096,
) -> Float[Array, " S"]:
    """Scores every sentence against the images of its class; lower is better.

    Beyond copies of the inputs, memory is O(block_size^2): no S x N array exists.
    Sentences sharded over devices stay sharded, block by block; images are best
    replicated.

    Differs from VL-LTR: scores are float32 on every device, and a class without images
    scores +inf, where the authors get NaN.

    Args:
      sentence_emb: sentence embeddings, of any length.
      sentence_labels: class of each sentence.
      image_emb: image embeddings, of any length.
      image_labels: class of each image.
      logit_scale: logarithm of the inverse temperature s.
      block_size: sentences, and images, in one block.

    Raises:
      ValueError: if there are no images, or no sentences.
    """
    if not len(image_labels) or not len(sentence_labels):
        raise ValueError(
            f"{len(sentence_labels)} sentences cannot be scored by "
            f"{len(image_labels)} images; both are needed"
        )
    num_classes = 1 + max(
        int(jnp.max(jnp.asarray(labels))) for labels in (sentence_labels, image_labels)
    )
    return _scores(
        jnp.asarray(sentence_emb),
        jnp.asarray(sentence_labels),
        jnp.asarray(image_emb),
        jnp.asarray(image_labels),
        jnp.asarray(logit_scale, jnp.float32),
        num_classes=num_classes,
        block_size=block_size,
    )


@functools.partial(jax.jit, static_argnames=("num_classes", "block_size"))
def _scores(
    sentence_emb: Array,
    sentence_labels: Array,
    image_emb: Array,
    image_labels: Array,
    logit_scale: Array,
    *,
    num_classes: int,
    block_size: int,
) -> Array:
    scale, images = jnp.exp(logit_scale), unit(image_emb)
    counts = jax.ops.segment_sum(jnp.ones(len(images)), image_labels, num_classes)
    sums = jax.ops.segment_sum(images, image_labels, num_classes)
    class_means = sums / jnp.maximum(counts, 1)[:, None]
    image_blocks = _blocks(images, block_size)
    real_images = _blocks(jnp.ones(len(images), bool), block_size)

    def score(block: tuple[Array, Array]) -> Array:
        sentences, labels = unit(block[0]), block[1]

        def accumulate(total: Array, block: tuple[Array, Array]) -> tuple[Array, None]:
            images, real = block
            logits = scale * jnp.matmul(sentences, images.T, precision="highest")
            logits = jnp.where(real[None, :], logits, -jnp.inf)
            return jnp.logaddexp(total, jax.nn.logsumexp(logits, axis=1)), None

        start = jnp.full(len(sentences), -jnp.inf)
        total, _ = jax.lax.scan(accumulate, start, (image_blocks, real_images))
        own = jnp.sum(sentences * class_means[labels], axis=1)
        return jnp.where(counts[labels] > 0, total - scale * own, jnp.inf)

    blocks = (_blocks(sentence_emb, block_size), _blocks(sentence_labels, block_size))
    return jax.lax.map(score, blocks).T.reshape(-1)[: len(sentence_emb)]


def _blocks(array: Array, size: int) -> Array:
    """[n, ...] as [blocks, size, ...], zero padded; row i goes to block i % blocks.

    Strided blocks hold rows of every shard of a sharded array, so each block is spread
    over the devices as the array was, and no block is all padding.
    """
    num_blocks = -(-len(array) // size)
    size = -(-len(array) // num_blocks)
    width = [(0, num_blocks * size - len(array))] + [(0, 0)] * (array.ndim - 1)
    array = jnp.pad(array, width)
    return array.reshape(size, num_blocks, *array.shape[1:]).swapaxes(0, 1)


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
      scores: of each sentence, lower is better; only 'anss' reads them.
      sentence_labels: class of each sentence.
      num_classes: C.
      num_anchors: M.
      selection: 'anss', the lowest scores (ties, and so classes without images, in the
        order of the sentences); 'cutoff', the first M; 'random', any M.
      seed: of 'random'.

    Returns:
      Indices of the sentences, best first, and a mask that is True where a class has
      fewer than M; the index there is 0.

    Raises:
      ValueError: if `selection` is not in `SELECTIONS`, a score is NaN, or a label is
        outside the classes.
    """
    if selection not in SELECTIONS:
        raise ValueError(f"selection {selection!r}: not one of {SELECTIONS}")
    if not ((sentence_labels >= 0) & (sentence_labels < num_classes)).all():
        raise ValueError(
            f"sentence labels run from {sentence_labels.min()} to "
            f"{sentence_labels.max()}; allowed are 0 to {num_classes - 1}"
        )
    if selection == "anss" and np.isnan(scores).any():
        raise ValueError(
            f"{np.isnan(scores).sum()} of {len(scores)} scores are NaN, the first that "
            f"of sentence {np.isnan(scores).argmax()}; check the embeddings"
        )
    keys = {
        "anss": lambda: scores,
        "cutoff": lambda: np.zeros(len(scores)),
        "random": lambda: np.random.default_rng(seed).random(len(scores)),
    }[selection]()
    order = np.lexsort((keys, sentence_labels))
    labels = sentence_labels[order]
    place = _place_in_class(labels)
    kept = place < num_anchors
    indices = np.zeros((num_classes, num_anchors), np.int64)
    padding = np.ones((num_classes, num_anchors), bool)
    indices[labels[kept], place[kept]] = order[kept]
    padding[labels[kept], place[kept]] = False
    return indices, padding


def cap_images_per_class(
    labels: Int[np.ndarray, " N"], max_per_class: int
) -> Int[np.ndarray, " kept"]:
    """Indices, ascending, of the first `max_per_class` images of each class."""
    order = np.argsort(labels, kind="stable")
    return np.sort(order[_place_in_class(labels[order]) < max_per_class])


def _place_in_class(sorted_labels: np.ndarray) -> np.ndarray:
    """Position of each entry among those of its label; labels ascend."""
    first = np.searchsorted(sorted_labels, sorted_labels, side="left")
    return np.arange(len(sorted_labels)) - first
