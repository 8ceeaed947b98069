"""Class-wise contrastive pre-training with distillation from the frozen CLIP.

The step computes L_pre = lambda L_ccl + (1 - lambda) L_dis of the paper over the global
batch. A batch too large for the devices is embedded in chunks: the losses see all
embeddings at once, and each chunk is embedded again on the way back.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, UInt8

from vl_ltr_jax import mesh as meshes
from vl_ltr_jax.models import encode
from vl_ltr_jax.models.clip import Clip
from vl_ltr_jax.pairs import Embedded, pretraining_losses
from vl_ltr_jax.settings import Pretrain
from vl_ltr_jax.train_state import TrainState

Batch = dict[str, Array]
Metrics = dict[str, Array]
# Key of the step, images, and their places in the global batch.
Prepare = Callable[
    [Key[Array, ""], UInt8[Array, "b H W 3"], Int[Array, " b"]],
    Float[Array, "b H W 3"],
]
Step = Callable[[dict[str, Any], TrainState, Batch], tuple[TrainState, Metrics]]


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
    statistics one after the other.

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
      [B, H, W, 3], `label` int32 [B], `tokens` int32 [B, L] and `sentence_id` [B].
    """
    frozen_model = teacher_model or model

    def embed(
        params: Any, batch_stats: Any, batch: Batch, key: Array
    ) -> tuple[Any, tuple[Array, Array]]:
        """New statistics, and the embeddings of images and sentences."""
        variables = {"params": params}
        if batch_stats:
            variables["batch_stats"] = batch_stats
        train = options.train_batch_norm and bool(batch_stats)
        embedded, updated = model.apply(
            variables,
            prepare(key, batch["image"], batch["row"]),
            batch["tokens"],
            train=train,
            mutable=["batch_stats"] if train else [],
        )
        return updated.get("batch_stats", batch_stats), embedded

    def embed_with_teacher(
        towers: Any, batch: Batch, key: Array
    ) -> Float[Array, "B D"]:
        pixels = prepare(key, batch["image"], batch["row"])
        return encode.image(frozen_model, towers, pixels)

    def loss_fn(
        params: dict[str, Any],
        batch_stats: Any,
        batch: Batch,
        key: Array,
        teacher: Embedded | None,
    ) -> tuple[Array, tuple[Any, Metrics]]:
        batch_stats, embedded = in_chunks(
            lambda stats, chunk: embed(params, stats, chunk, key),
            batch_stats,
            batch,
            accumulation_steps,
            mesh,
        )
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
        frozen = None
        if teacher:
            towers = teacher["towers"]
            _, images = in_chunks(
                lambda _, chunk: (None, embed_with_teacher(towers, chunk, key)),
                None,
                batch,
                accumulation_steps,
                mesh,
            )
            texts = meshes.take_rows(mesh, teacher["texts"], batch["sentence_id"])
            frozen = Embedded(images, texts, towers["params"]["logit_scale"])
        gradients, (batch_stats, metrics) = jax.grad(loss_fn, has_aux=True)(
            state.params, state.batch_stats, batch, key, frozen
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        metrics |= {
            "learning_rate": schedule(state.step),
            "gradient_norm": optax.tree.norm(gradients),
            "logit_scale": jnp.exp(state.params["logit_scale"]),
        }
        return (
            dataclasses.replace(
                state,
                step=state.step + 1,
                params=optax.apply_updates(state.params, updates),
                batch_stats=batch_stats,
                opt_state=opt_state,
            ),
            metrics,
        )

    return step


def in_chunks(
    embed: Callable[[Any, Batch], tuple[Any, Any]],
    carry: Any,
    batch: Batch,
    num_chunks: int,
    mesh: jax.sharding.Mesh,
) -> tuple[Any, Any]:
    """Embeds a batch chunk by chunk, keeping no activations for the backward pass.

    The backward pass embeds each chunk again: memory is that of one chunk, and the
    gradient that of the whole batch.

    Args:
      embed: from a carry and a chunk to the next carry and arrays of one row each.
      carry: for the first chunk.
      batch: arrays [B, ...], all split over the mesh.
      num_chunks: 1 leaves the batch whole, and its activations for the backward pass.
      mesh: the devices.

    Returns:
      The last carry, and the arrays of all chunks in the order of the batch.
    """
    if num_chunks == 1:
        return embed(carry, batch)
    chunks = cut(batch, num_chunks, mesh)
    carry, embedded = jax.lax.scan(jax.checkpoint(embed), carry, chunks)
    rows = jax.tree.map(
        lambda chunk: chunk.swapaxes(0, 1).reshape(-1, *chunk.shape[2:]), embedded
    )
    return carry, meshes.split_rows(mesh, rows)


def cut(tree: Any, num_chunks: int, mesh: jax.sharding.Mesh) -> Any:
    """Rows [B, ...] as chunks [num_chunks, B / num_chunks, ...].

    Row i goes to chunk i mod num_chunks, so that each device cuts its own rows.
    """
    chunks = jax.tree.map(
        lambda rows: rows.reshape(-1, num_chunks, *rows.shape[1:]).swapaxes(0, 1), tree
    )
    return meshes.split_rows(mesh, chunks, axis=1)
