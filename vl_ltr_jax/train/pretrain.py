"""Class-wise contrastive pre-training with distillation from the frozen CLIP.

The step computes L_pre = lambda L_ccl + (1 - lambda) L_dis of the paper over the global
batch; towers may embed it in chunks.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, UInt8

from vl_ltr_jax.config.settings import Pretrain
from vl_ltr_jax.method.pair_losses import Embedded, pretraining_losses
from vl_ltr_jax.models import encode
from vl_ltr_jax.models.clip import Clip
from vl_ltr_jax.models.text import PackedTokens
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.train import chunks
from vl_ltr_jax.train.state import TrainState

Batch = dict[str, Array]
Metrics = dict[str, Array]
# Key of the step, images, and their places in the global batch.
Prepare = Callable[
    [Key[Array, ""], UInt8[Array, "b H W 3"], Int[Array, " b"]],
    Float[Array, "b H W 3"],
]
Step = Callable[[dict[str, Any], TrainState, Batch], tuple[TrainState, Metrics]]


def text_of(batch: Batch) -> Array | PackedTokens:
    """The sentences of a batch, packed where it says so."""
    if "segments" not in batch:
        return batch["tokens"]
    return PackedTokens(*(batch[name] for name in PackedTokens._fields))


def make_step(
    model: Clip,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    prepare: Prepare,
    options: Pretrain,
    seed: int,
    mesh: jax.sharding.Mesh,
    *,
    teacher_model: Clip | None = None,
    accumulation_steps: int = 1,
) -> Step:
    """Builds the pure pre-training step `(teacher, state, batch) -> (state, metrics)`.

    Differs from VL-LTR: with `train_batch_norm`, BatchNorm sees the global batch, or a
    whole chunk of it where the batch is accumulated; chunks update the running
    statistics one after the other. The logit scale is clamped, as CLIP's is.

    Args:
      model: both towers, in training.
      optimizer: its updates are applied to the towers and the logit scale.
      schedule: learning rate by step, for the log.
      prepare: normalises and erases uint8 images on the device.
      options: the pre-training section of the configuration.
      seed: root of the step's random numbers, which depend on (seed, step) alone.
      mesh: the devices; the batch is split over all of them.
      teacher_model: the frozen CLIP, `model` by default; only its image tower runs.
      accumulation_steps: chunks of the global batch, which each divide over the mesh.

    Returns:
      The step. `teacher` is empty without distillation, else it holds `towers`, the
      frozen CLIP's variables without its text tower, and `texts`, its embeddings of
      every sentence, a table for :func:`mesh.take_rows`. A batch holds `image` uint8
      [B, H, W, 3], `label` int32 [B], `tokens` int32 [B, L] and `sentence_id` [B]; or,
      in place of the tokens, the fields of :class:`PackedTokens` with a group for each
      device and chunk.
    """
    frozen_model = teacher_model or model

    def embed(
        params: Any, batch_stats: Any, chunk: Batch, key: Array, train: bool
    ) -> tuple[Any, tuple[Array, Array]]:
        """New statistics, and the embeddings of images and sentences."""
        variables = {"params": params}
        if batch_stats:
            variables["batch_stats"] = batch_stats
        embedded, updated = model.apply(
            variables,
            prepare(key, chunk["image"], chunk["row"]),
            text_of(chunk),
            train=train,
            mutable=["batch_stats"] if train else [],
        )
        return updated.get("batch_stats", batch_stats), embedded

    def embed_alone(whole: Any, chunk: Batch) -> tuple[Array, Array]:
        params, batch_stats, key = whole
        return embed(params, batch_stats, chunk, key, False)[1]

    def embed_all(
        params: Any, batch_stats: Any, batch: Batch, key: Array
    ) -> tuple[Any, tuple[Array, Array]]:
        if options.train_batch_norm and batch_stats:
            return chunks.embed_in_turn(
                lambda stats, chunk: embed(params, stats, chunk, key, True),
                batch_stats,
                batch,
                accumulation_steps,
                mesh,
            )
        embedded = chunks.embed(
            embed_alone,
            (params, batch_stats, key),
            batch,
            accumulation_steps,
            mesh,
        )
        return batch_stats, embedded

    def embed_frozen(teacher: dict[str, Any], batch: Batch, key: Array) -> Embedded:
        def images(whole: tuple[Any, Array], chunk: Batch) -> Array:
            towers, key = whole
            pixels = prepare(key, chunk["image"], chunk["row"])
            return encode.image(frozen_model, towers, pixels)

        towers = teacher["towers"]
        return Embedded(
            chunks.embed(images, (towers, key), batch, accumulation_steps, mesh),
            meshes.take_rows(mesh, teacher["texts"], batch["sentence_id"]),
            towers["params"]["logit_scale"],
        )

    def loss_fn(
        params: dict[str, Any],
        batch_stats: Any,
        batch: Batch,
        key: Array,
        teacher: Embedded | None,
    ) -> tuple[Array, tuple[Any, Metrics]]:
        batch_stats, embedded = embed_all(params, batch_stats, batch, key)
        values, nearest = pretraining_losses(
            Embedded(embedded[0], embedded[1], params["logit_scale"]),
            teacher,
            batch["label"],
            mesh,
            label_smoothing=options.label_smoothing,
            contrastive_reduction=options.contrastive_reduction,
            distillation="full" if teacher is None else options.distillation,
            temperature=options.distillation_temperature,
            form=options.loss_form,
        )
        total = values["contrastive"]
        if teacher is not None:
            weight = options.distillation_weight
            total = (1 - weight) * total + weight * values["distillation"]
        metrics = {f"loss/{name.replace('/', '_')}": v for name, v in values.items()}
        hits = 100 * jnp.mean(nearest == batch["label"])
        metrics |= {"loss/total": total, "accuracy/batch_top1": hits}
        return total, (batch_stats, metrics)

    def step(
        teacher: dict[str, Any], state: TrainState, batch: Batch
    ) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        batch = {**batch, "row": jnp.arange(len(batch["label"]))}
        frozen = embed_frozen(teacher, batch, key) if teacher else None
        gradients, (batch_stats, metrics) = jax.grad(loss_fn, has_aux=True)(
            state.params, state.batch_stats, batch, key, frozen
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        metrics |= {
            "learning_rate": schedule(state.step),
            "gradient_norm": optax.tree.norm(gradients),
            "logit_scale": jnp.exp(state.params["logit_scale"]),
        }
        params = optax.apply_updates(state.params, updates)
        if most := options.max_logit_scale:
            params["logit_scale"] = jnp.minimum(params["logit_scale"], math.log(most))
        return (
            dataclasses.replace(
                state,
                step=state.step + 1,
                params=params,
                batch_stats=batch_stats,
                opt_state=opt_state,
            ),
            metrics,
        )

    return step
