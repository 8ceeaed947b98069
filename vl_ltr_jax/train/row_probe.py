"""What single rows of a batch give, measured: for a look at a step, beside the step.

A row is taken as it is, before mixup and CutMix mix it with another, and with running
statistics in a BatchNorm, so that what is wrong with one shows in none else.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vl_ltr_jax.method.losses import contrastive_logits
from vl_ltr_jax.models import encode
from vl_ltr_jax.models.clip import Clip
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.train import chunks, finetune
from vl_ltr_jax.train.pretrain import Batch, Prepare, text_of
from vl_ltr_jax.train.state import TrainState


class Measured(NamedTuple):
    """Sizes by row, under the names of what was measured.

    Attributes:
      lengths: of embeddings that depend on the row alone; NaN or infinite where one of
        its numbers is.
      logits: the largest magnitude among the row's, which others may have a part in.
    """

    lengths: dict[str, Float[Array, " B"]]
    logits: dict[str, Float[Array, " B"]]


Measure = Callable[[dict[str, Any], TrainState, Batch], Measured]
IMAGE, SENTENCE, FEATURES = "image embedding", "sentence embedding", "image features"
FROZEN_IMAGE = "image embedding of the frozen CLIP"
FROZEN_SENTENCE = "sentence embedding of the frozen CLIP"


def of_pairs(
    model: Clip,
    prepare: Prepare,
    seed: int,
    mesh: jax.sharding.Mesh,
    *,
    accumulation_steps: int = 1,
) -> Measure:
    """Builds the measuring of pre-training.

    Args:
      model: both towers, of the student and of the frozen CLIP.
      prepare: normalises and erases images, as in the step.
      seed: the step's.
      mesh: the devices.
      accumulation_steps: chunks of the global batch.
    """

    def embed(
        whole: tuple[dict[str, Any], dict[str, Any], Array], chunk: Batch
    ) -> dict[str, Array]:
        variables, frozen, key = whole
        pixels = prepare(key, chunk["image"], chunk["row"])
        image, sentence = model.apply(variables, pixels, text_of(chunk))
        found = {IMAGE: image, SENTENCE: sentence}
        if frozen:
            found[FROZEN_IMAGE] = encode.image(model, frozen, pixels)
        return found

    def measure(frozen: dict[str, Any], state: TrainState, batch: Batch) -> Measured:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        batch = {**batch, "row": jnp.arange(len(batch["label"]))}
        variables = {"params": state.params}
        if state.batch_stats:
            variables["batch_stats"] = state.batch_stats
        towers = frozen["towers"] if frozen else {}
        whole = (variables, towers, key)
        found = chunks.embed(embed, whole, batch, accumulation_steps, mesh)
        if frozen:
            ids = batch["sentence_id"]
            found[FROZEN_SENTENCE] = meshes.take_rows(mesh, frozen["texts"], ids)
        scale = state.params["logit_scale"]
        logits = contrastive_logits(found[IMAGE], found[SENTENCE], scale)
        return Measured(
            {name: _length(rows) for name, rows in found.items()},
            {"logits": _largest(logits)},
        )

    return measure


def of_images(
    model: Clip,
    head: nn.Module,
    prepare: Prepare,
    seed: int,
    mesh: jax.sharding.Mesh,
    *,
    accumulation_steps: int = 1,
) -> Measure:
    """Builds the measuring of a head's training, on images or on features.

    Args:
      model: both towers; only the image tower runs.
      head: the recognition head.
      prepare: normalises and erases images, as in the step.
      seed: the step's.
      mesh: the devices.
      accumulation_steps: chunks of the global batch.
    """
    embed = functools.partial(
        finetune.features_of,
        model,
        accumulation_steps=accumulation_steps,
        mesh=mesh,
    )

    def measure(frozen: dict[str, Any], state: TrainState, batch: Batch) -> Measured:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        rows = jnp.arange(len(batch["label"]))
        if "features" in batch:
            given = batch["features"]
        else:
            given = prepare(jax.random.split(key)[0], batch["image"], rows)
        features = embed(state.params, frozen, given)
        logits = finetune.head_logits(
            head, state.params["head"], features, frozen["anchors"], mesh
        )
        return Measured(
            {FEATURES: _length(features)},
            {f"{branch} logits": _largest(one) for branch, one in logits.items()},
        )

    return measure


def _largest(rows: Float[Array, "B K"]) -> Float[Array, " B"]:
    return jnp.max(jnp.abs(rows.astype(jnp.float32)), axis=1)


def _length(rows: Float[Array, "B D"]) -> Float[Array, " B"]:
    """Lengths; the squares of finite numbers may be infinite, so they are scaled."""
    most = jnp.maximum(_largest(rows), jnp.finfo(jnp.float32).tiny)
    scaled = rows.astype(jnp.float32) / most[:, None]
    return most * jnp.sqrt(jnp.sum(scaled**2, axis=1))
