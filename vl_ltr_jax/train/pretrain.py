"""Class-wise contrastive pre-training with distillation from the frozen CLIP.

The step computes L_pre = lambda L_ccl + (1 - lambda) L_dis of the paper over the global
batch; towers may embed it in chunks.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from vl_ltr_jax.config.settings import Pretrain
from vl_ltr_jax.method.pair_losses import Embedded, pretraining_losses
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.train.embedder import Embedder
from vl_ltr_jax.train.state import Batch, Metrics, Step, TrainState


class Teacher(NamedTuple):
    """Arrays of the frozen CLIP.

    Attributes:
      towers: its variables without the text tower.
      texts: embeddings of every sentence, a table for :func:`mesh.take_rows`.
    """

    towers: dict[str, Any]
    texts: Float[Array, "S D"]


def make_step(
    embedder: Embedder,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    section: Pretrain,
) -> Step:
    """Builds the pure pre-training step `(teacher, state, batch) -> (state, metrics)`.

    Differs from VL-LTR: with `train_batch_norm`, BatchNorm sees the global batch, or a
    whole chunk of an accumulated batch. Chunks update the running statistics one after
    the other. The logit scale is clamped, as CLIP's is.

    `teacher` is a :class:`Teacher`, or None without distillation. A batch holds `image`
    uint8 [B, H, W, 3], `label` int32 [B], `sentence_id` [B] and `tokens` int32 [B, L].
    Instead of tokens it may hold the fields of :class:`PackedTokens`, with a group for
    each device and chunk. The schedule serves the log.
    """

    def loss_fn(
        params: dict[str, Any],
        batch_stats: Any,
        batch: Batch,
        key: Array,
        teacher: Embedded | None,
    ) -> tuple[Array, tuple[Any, Metrics]]:
        batch_stats, features = embedder.pairs(
            params, batch_stats, batch, key, train_batch_norm=section.train_batch_norm
        )
        values, nearest = pretraining_losses(
            Embedded(*features, params["logit_scale"]),
            teacher,
            batch["label"],
            embedder.mesh,
            label_smoothing=section.label_smoothing,
            contrastive_reduction=section.contrastive_reduction,
            distillation="full" if teacher is None else section.distillation,
            temperature=section.distillation_temperature,
            form=section.loss_form,
        )
        total = values["contrastive"]
        if teacher is not None:
            weight = section.distillation_weight
            total = (1 - weight) * total + weight * values["distillation"]
        metrics = {f"loss/{name.replace('/', '_')}": v for name, v in values.items()}
        hits = 100 * jnp.mean(nearest == batch["label"])
        metrics |= {"loss/total": total, "accuracy/batch_top1": hits}
        return total, (batch_stats, metrics)

    def step(
        teacher: Teacher | None, state: TrainState, batch: Batch
    ) -> tuple[TrainState, Metrics]:
        key, target = embedder.key(state.step), None
        if teacher is not None:
            target = Embedded(
                embedder.teacher_images(teacher.towers, batch, key),
                meshes.take_rows(embedder.mesh, teacher.texts, batch["sentence_id"]),
                teacher.towers["params"]["logit_scale"],
            )
        gradients, (batch_stats, metrics) = jax.grad(loss_fn, has_aux=True)(
            state.params, state.batch_stats, batch, key, target
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        metrics |= {
            "learning_rate": schedule(state.step),
            "gradient_norm": optax.tree.norm(gradients),
            "logit_scale": jnp.exp(state.params["logit_scale"]),
        }
        params = optax.apply_updates(state.params, updates)
        if limit := section.max_logit_scale:
            params["logit_scale"] = jnp.minimum(params["logit_scale"], math.log(limit))
        after = dataclasses.replace(
            state,
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        return after, metrics

    return step
