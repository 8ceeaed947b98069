"""Reference form of the pre-training losses on global arrays, and shared parts.

Training computes the same L_ccl (class-wise contrastive) and L_dis (distillation from
the frozen CLIP) by :mod:`vl_ltr_jax.method.pair_losses`; tests compare the two. Both
forms and the heads share `unit`, `cross_entropy` (of L_rec) and the targets.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

DISTILLATION_FORMS = ("full", "diagonal", "kl")
REDUCTIONS = ("mean", "sum")


def unit(vectors: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
    """Scales each vector to length 1, in float32; a zero vector stays zero."""
    vectors = vectors.astype(jnp.float32)
    squared = jnp.sum(vectors**2, axis=-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))


def contrastive_logits(
    image_emb: Float[Array, "B D"],
    text_emb: Float[Array, "S D"],
    logit_scale: Float[Array, ""],
) -> Float[Array, "B S"]:
    """Returns scaled cosines, exp(logit_scale) cos(image, text), in float32.

    Args:
      image_emb: image embeddings of any length.
      text_emb: text embeddings of any length.
      logit_scale: logarithm of the inverse temperature.
    """
    cosines = jnp.matmul(unit(image_emb), unit(text_emb).T, precision="highest")
    return jnp.exp(logit_scale.astype(jnp.float32)) * cosines


def cross_entropy(
    logits: Float[Array, "B C"], targets: Float[Array, "B C"]
) -> Float[Array, ""]:
    """Returns the mean over rows of -sum_c targets log softmax(logits), in float32."""
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.mean(jnp.sum(targets * log_probabilities, axis=-1))


def one_hot_smooth(
    labels: Int[Array, " B"], num_classes: int, smoothing: float
) -> Float[Array, "B {num_classes}"]:
    """Returns one-hot rows with the share `smoothing` spread over all classes."""
    one_hot = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
    return one_hot * (1 - smoothing) + smoothing / num_classes


def classwise_contrastive(
    logits: Float[Array, "B B"],
    labels: Int[Array, " B"],
    *,
    label_smoothing: float = 0.1,
    reduction: str = "mean",
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Returns the class-wise contrastive loss, the paper's L_ccl; reference form.

    Image i and text j are a positive pair when their labels agree; the positives of a
    row share its target evenly. With all labels distinct this is CLIP's loss.

    Args:
      logits: scaled cosines of the global batch, images by texts.
      labels: class of each image, and so of the text drawn for it.
      label_smoothing: share of each target spread over the whole row. The authors'
        code uses 0.1; the paper's formula has no smoothing (0).
      reduction: 'mean' halves the sum of both directions, as the authors' code does;
        'sum' is the paper's formula.

    Returns:
      The loss, and its image-to-text and text-to-image terms as 'image' and 'text'.
    """
    positives = (labels[:, None] == labels[None, :]).astype(jnp.float32)
    targets = positives / jnp.sum(positives, axis=1, keepdims=True)
    targets = targets * (1 - label_smoothing) + label_smoothing / len(labels)
    # Two rows of one class hold equally many positives: the targets are symmetric.
    terms = {
        "image": cross_entropy(logits, targets),
        "text": cross_entropy(logits.T, targets),
    }
    return mean_or_sum(terms, reduction), terms


def distillation(
    student_logits: Float[Array, "B B"],
    teacher_logits: Float[Array, "B B"],
    *,
    form: str = "full",
    temperature: float = 1.0,
    reduction: str = "mean",
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Returns the distillation L_dis from the frozen CLIP; reference form.

    No gradient reaches the teacher.

    Args:
      student_logits: scaled cosines of the trained towers, images by texts.
      teacher_logits: those of the frozen towers, with the teacher's own scale.
      form: 'full', cross entropy between whole distributions over a row (the authors'
        code); 'diagonal', only the matching pair, weighted by the teacher's probability
        of it (the paper's formula); 'kl', the authors' `logits_kl`: KL(teacher ||
        student) times the squared temperature, divided by the number of entries of the
        matrix, so B times smaller than a mean over rows.
      temperature: divides both logits of the form 'kl'.
      reduction: 'mean' (the authors' code) or 'sum' (the paper) of both directions.

    Returns:
      The loss, and its image-to-text and text-to-image terms as 'image' and 'text'.
    """

    def direction(student: Array, teacher: Array) -> Array:
        student = jax.nn.log_softmax(student.astype(jnp.float32) / temperature)
        teacher = jax.nn.log_softmax(teacher.astype(jnp.float32) / temperature)
        weights = jnp.exp(teacher)
        if form == "full":
            return -jnp.mean(jnp.sum(weights * student, axis=-1))
        if form == "diagonal":
            return -jnp.mean(jnp.diagonal(weights) * jnp.diagonal(student))
        if form == "kl":
            return temperature**2 * jnp.mean(weights * (teacher - student))
        raise ValueError(f"form={form!r}: not one of {DISTILLATION_FORMS}")

    teacher_logits = jax.lax.stop_gradient(teacher_logits)
    terms = {
        "image": direction(student_logits, teacher_logits),
        "text": direction(student_logits.T, teacher_logits.T),
    }
    return mean_or_sum(terms, reduction), terms


def mean_or_sum(terms: dict[str, Float[Array, ""]], reduction: str) -> Float[Array, ""]:
    """Returns the 'mean' or the 'sum' of the terms 'image' and 'text'."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction={reduction!r}: not one of {REDUCTIONS}")
    total = terms["image"] + terms["text"]
    return total / 2 if reduction == "mean" else total
