"""The losses of pre-training over the mesh: all image-text pairs of the global batch.

The losses of :mod:`vl_ltr_jax.method.losses` need only a few sums over each row and
each column of the B x B logits. :mod:`vl_ltr_jax.method.pair_sums` computes these.

Two forms, equal up to rounding: `rows` keeps the [b, B] logits for the backward pass;
`streaming` gathers a block of texts at a time and computes its logits again.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vl_ltr_jax.method.losses import DISTILLATION_FORMS, REDUCTIONS, mean_or_sum, unit
from vl_ltr_jax.method.pair_sums import Options, Side, pair_sums

FORMS = ("auto", "rows", "streaming")
# `auto` streams once a device's rows hold more logits than this (128 MiB).
MAX_ROW_LOGITS = 2**25
STREAMING_COLUMNS = 1024  # texts in one block of the streaming form


class Embedded(NamedTuple):
    """Embeddings of the global batch by one CLIP.

    Attributes:
      image: image embeddings of any length.
      text: embeddings of the sentences drawn for them, of any length.
      logit_scale: logarithm of the inverse temperature.
    """

    image: Float[Array, "B D"]
    text: Float[Array, "B D"]
    logit_scale: Float[Array, ""]


def pretraining_losses(
    student: Embedded,
    teacher: Embedded | None,
    labels: Int[Array, " B"],
    mesh: jax.sharding.Mesh,
    *,
    label_smoothing: float = 0.1,
    contrastive_reduction: str = "mean",
    distillation: str = "full",
    temperature: float = 1.0,
    form: str = "auto",
) -> tuple[dict[str, Float[Array, ""]], Int[Array, " B"]]:
    """Returns L_ccl and L_dis of the paper over a batch sharded over the whole mesh.

    Args:
      student: embeddings of the trained towers; gradients reach these only.
      teacher: embeddings of the frozen CLIP, or None without distillation.
      labels: class of each image, and so of its sentence.
      mesh: the devices; B is a multiple of their number.
      label_smoothing: see :func:`losses.classwise_contrastive`.
      contrastive_reduction: 'mean' or 'sum', of both directions.
      distillation: 'full', 'diagonal' or 'kl', see :func:`losses.distillation`.
      temperature: temperature of 'kl'.
      form: 'rows', 'streaming', or 'auto': by the size of a device's rows.

    Returns:
      `contrastive` and `distillation` with their terms `.../image` and `.../text`, and
      the class of the text nearest to each image.

    Raises:
      ValueError: an unknown form or reduction, or a batch the mesh does not divide.
    """
    if form not in FORMS:
        raise ValueError(f"form {form!r}: not in {FORMS}")
    if distillation not in DISTILLATION_FORMS:
        raise ValueError(f"distillation {distillation!r}: not in {DISTILLATION_FORMS}")
    if contrastive_reduction not in REDUCTIONS:
        raise ValueError(f"reduction {contrastive_reduction!r}: not in {REDUCTIONS}")
    batch_size, devices = len(labels), mesh.size
    if batch_size % devices:
        raise ValueError(
            f"a global batch of {batch_size} does not divide over {devices} devices"
        )
    rows = batch_size // devices
    if form == "auto":
        form = "streaming" if rows * batch_size > MAX_ROW_LOGITS else "rows"
    options = Options(
        mesh,
        label_smoothing,
        distillation if teacher is not None else "none",
        temperature,
        num_blocks(rows, devices) if form == "streaming" else 0,
    )
    queries, keys = _scaled(student)
    teacher_pair = None
    if teacher is not None:
        teacher_pair = jax.lax.stop_gradient(_scaled(teacher))
    sums, nearest = pair_sums(options, queries, keys, labels, teacher_pair)
    directions = {
        "contrastive": (
            sums.rows.lse - sums.target,
            # Targets are symmetric: rows and columns have the same total.
            sums.columns.lse - sums.target,
        )
    }
    if teacher_pair is not None:
        student_pairs = jnp.sum(queries * keys, axis=1)
        teacher_pairs = jnp.sum(teacher_pair[0] * teacher_pair[1], axis=1)
        directions["distillation"] = (
            _distillation(options, sums.rows, student_pairs, teacher_pairs),
            _distillation(options, sums.columns, student_pairs, teacher_pairs),
        )
    reductions = {"contrastive": contrastive_reduction, "distillation": "mean"}
    result = {}
    for name, (image, text) in directions.items():
        terms = {"image": jnp.mean(image), "text": jnp.mean(text)}
        result[name] = mean_or_sum(terms, reductions[name])
        result |= {f"{name}/{side}": term for side, term in terms.items()}
    return result, nearest


def _scaled(clip: Embedded) -> tuple[Array, Array]:
    """Returns scaled images, and texts: their products are the logits."""
    scale = jnp.exp(clip.logit_scale.astype(jnp.float32))
    return scale * unit(clip.image), unit(clip.text)


def _distillation(
    options: Options, side: Side, student_pairs: Array, teacher_pairs: Array
) -> Array:
    """Returns one direction of the distillation, a number for each row or column."""
    if options.distillation == "full":
        return side.lse - side.dot
    if options.distillation == "diagonal":
        return jnp.exp(teacher_pairs - side.teacher) * (side.lse - student_pairs)
    lse = side.lse if options.temperature == 1 else side.tempered
    # The authors divide by the number of entries, B times too many.
    factor = options.temperature**2 / len(student_pairs)
    return factor * (side.dot - side.teacher + lse)


def num_blocks(rows: int, devices: int) -> int:
    """Returns the fewest equal slices of a device's texts that keep a block small.

    Args:
      rows: texts of one device.
      devices: number of devices; each gives a slice to each block.
    """
    most = max(STREAMING_COLUMNS // devices, 1)
    return next(n for n in range(1, rows + 1) if rows % n == 0 and rows // n <= most)
