"""Norms of embeddings and logits by example, to find what broke a training step.

The probe takes an example before mixup and CutMix blend it with another. BatchNorm uses
running statistics, so a fault in one example shows in no other.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vl_ltr_jax.method.losses import contrastive_logits
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.train import finetune
from vl_ltr_jax.train.embedder import Embedder
from vl_ltr_jax.train.pretrain import Teacher
from vl_ltr_jax.train.state import Batch, TrainState


class RowNorms(NamedTuple):
    """Norms by row, under the names of the arrays.

    Attributes:
      norms: of embeddings that depend on the row alone; a NaN stays one.
      logits: largest magnitude in each row, which other rows take part in.
    """

    norms: dict[str, Float[Array, " B"]]
    logits: dict[str, Float[Array, " B"]]


Probe = Callable[[Any, TrainState, Batch], RowNorms]


def of_pairs(embedder: Embedder) -> Probe:
    """Builds the probe of pre-training."""

    def probe(teacher: Teacher | None, state: TrainState, batch: Batch) -> RowNorms:
        key = embedder.key(state.step)
        _, (image, sentence) = embedder.pairs(
            state.params, state.batch_stats, batch, key
        )
        rows = {"image embedding": image, "sentence embedding": sentence}
        if teacher is not None:
            rows["teacher's image embedding"] = embedder.teacher_images(
                teacher.towers, batch, key
            )
            rows["teacher's sentence embedding"] = meshes.take_rows(
                embedder.mesh, teacher.texts, batch["sentence_id"]
            )
        logits = contrastive_logits(image, sentence, state.params["logit_scale"])
        return RowNorms(
            {name: _norm(values) for name, values in rows.items()},
            {"logits": _largest(logits)},
        )

    return probe


def of_images(embedder: Embedder, head: nn.Module) -> Probe:
    """Builds the probe of a head's training, on images or on features."""

    def probe(frozen: finetune.Frozen, state: TrainState, batch: Batch) -> RowNorms:
        key, _ = jax.random.split(embedder.key(state.step))
        pixels = embedder.pixels(key, batch)
        features = embedder.image_features(state.params, frozen.towers, pixels)
        logits = finetune.head_logits(
            head, state.params["head"], features, frozen.anchors, embedder.mesh
        )
        return RowNorms(
            {"image features": _norm(features)},
            {f"{branch} logits": _largest(rows) for branch, rows in logits.items()},
        )

    return probe


def _largest(rows: Float[Array, "B K"]) -> Float[Array, " B"]:
    return jnp.max(jnp.abs(rows.astype(jnp.float32)), axis=1)


def _norm(rows: Float[Array, "B D"]) -> Float[Array, " B"]:
    """Returns norms of scaled rows, since squares of finite numbers may overflow."""
    largest = jnp.maximum(_largest(rows), jnp.finfo(jnp.float32).tiny)
    scaled = rows.astype(jnp.float32) / largest[:, None]
    return largest * jnp.sqrt(jnp.sum(scaled**2, axis=1))
