"""Classes without training images, recognised by their sentences alone.

The language branch of LGR scores any class that has sentences; the visual branch knows
the trained classes only. So language decides the share of an image's probability that
goes to added classes. The trained classes divide the remainder as before:

    P(a) = e^(l_a + d_a) / Z,   P(c) = (e^L / Z) p(c),   L = logsumexp_c l_c,
    Z = e^L + sum_a e^(l_a + d_a),

with language logits l and the run's own prediction p. The order of trained classes
never changes. The offset d_a of an added class is calibrated on images of trained
classes (calibrated stacking, Chao et al. 2016): the largest offset by which at most a
certain share of these images turns to the new class. Not in VL-LTR.
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
    """Returns probabilities of trained and added classes.

    Args:
      probabilities: prediction for the trained classes.
      language_logits: language logits of the trained classes.
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
    """Returns the M sentences whose cosines spread most over N images, best first.

    Without images, returns the first M.

    Args:
      sentence_emb: sentences of the new class, of any length.
      image_emb: images of the trained classes, of any length.
      num_anchors: M, or fewer if there are fewer sentences.
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
    """Returns the largest offset by which a class takes at most a share of N images.

    Without images, returns 0.

    Args:
      probabilities: prediction for images of trained classes.
      language_logits: language logits of the trained classes.
      added_logits: language logits of classes added before, offsets included.
      new_logits: language logits of the new class.
      max_taken: share of the images that may turn to the new class.
    """
    if not len(new_logits):
        return 0.0
    highest = language_logits.max(axis=1)
    total = np.log(np.exp(language_logits - highest[:, None]).sum(axis=1)) + highest
    tiny = np.finfo(np.float32).tiny
    best = total + np.log(np.maximum(probabilities.max(axis=1), tiny))
    best = np.maximum(best, added_logits.max(axis=1, initial=-np.inf))
    # An image turns to the new class if the offset exceeds its threshold.
    thresholds = np.sort(best - new_logits)
    return float(thresholds[min(int(max_taken * len(best)), len(best) - 1)])


def empty(num_anchors: int, embed_dim: int) -> dict[str, np.ndarray]:
    """Returns the arrays without any added class, see `head.apply`."""
    return {
        "embeddings": np.zeros((0, num_anchors, embed_dim), np.float32),
        "padding": np.zeros((0, num_anchors), bool),
        "offsets": np.zeros(0, np.float32),
    }
