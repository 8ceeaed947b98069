"""Classes that no training image was seen of, known by their sentences alone.

The language branch of LGR scores any class that has sentences; the visual branch knows
the trained classes only. So language decides how much of an image's probability goes to
the classes that were added, and what is left is shared out among the trained ones as
before:

    P(a) = e^(l_a + d_a) / Z,   P(c) = (e^L / Z) p(c),   L = logsumexp_c l_c,
    Z = e^L + sum_a e^(l_a + d_a),

with language logits l and p the run's own prediction. The order of trained classes
never changes. The offset d_a of an added class is set by images of the trained ones
(calibrated stacking, Chao et al. 2016): it is as large as it can be while no more of
them than a given share turn to the new class. Not in VL-LTR.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# Share of the trained classes' validation images that one added class may take.
MAX_TAKEN = 0.02


def join(
    probabilities: Float[Array, "B C"],
    language_logits: Float[Array, "B C"],
    added_logits: Float[Array, "B A"],
) -> Float[Array, "B C+A"]:
    """Probabilities of trained and added classes.

    Args:
      probabilities: of the trained classes.
      language_logits: of the same.
      added_logits: language logits of the added classes, offsets included.
    """
    old = jax.nn.logsumexp(language_logits, axis=1, keepdims=True)
    shares = jax.nn.softmax(jnp.concatenate([old, added_logits], axis=1))
    return jnp.concatenate([shares[:, :1] * probabilities, shares[:, 1:]], axis=1)


def choose_anchors(
    sentence_emb: Float[np.ndarray, "S D"],
    image_emb: Float[np.ndarray, "N D"],
    num_anchors: int,
) -> Int[np.ndarray, " M"]:
    """The M sentences whose cosines spread most over N images, best first.

    Args:
      sentence_emb: of the new class, of any length.
      image_emb: of the trained classes' images, of any length.
      num_anchors: M; fewer where there are fewer sentences.

    Returns:
      Indices of sentences; the first M where there are no images to tell by.
    """
    sentences, images = (
        rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        for rows in (sentence_emb, image_emb)
    )
    if not len(images):
        return np.arange(min(num_anchors, len(sentences)))
    spread = (sentences @ images.T).std(axis=1)
    return np.argsort(-spread, kind="stable")[:num_anchors]


def choose_offset(
    probabilities: Float[np.ndarray, "N C"],
    language_logits: Float[np.ndarray, "N C"],
    added_logits: Float[np.ndarray, "N A"],
    new_logits: Float[np.ndarray, " N"],
    max_taken: float = MAX_TAKEN,
) -> float:
    """The largest offset by which a new class takes at most a share of N images.

    Args:
      probabilities: of the trained classes, for images of these.
      language_logits: of the same.
      added_logits: of classes added before, offsets included.
      new_logits: of the new class.
      max_taken: share of the images that may turn to it.

    Returns:
      The offset; 0 where there are no images to tell by.
    """
    if not len(new_logits):
        return 0.0
    highest = language_logits.max(axis=1)
    total = np.log(np.exp(language_logits - highest[:, None]).sum(axis=1)) + highest
    tiny = np.finfo(np.float32).tiny
    best = total + np.log(np.maximum(probabilities.max(axis=1), tiny))
    best = np.maximum(best, added_logits.max(axis=1, initial=-np.inf))
    # An image turns to the new class where the offset is above this.
    thresholds = np.sort(best - new_logits)
    return float(thresholds[min(int(max_taken * len(best)), len(best) - 1)])


def empty(num_anchors: int, embed_dim: int) -> dict[str, np.ndarray]:
    """The arrays of no added class, see `head.apply`."""
    return {
        "embeddings": np.zeros((0, num_anchors, embed_dim), np.float32),
        "padding": np.zeros((0, num_anchors), bool),
        "offsets": np.zeros(0, np.float32),
    }
