"""Class-wise contrastive pre-training with distillation from the frozen CLIP.

The step computes L_pre = lambda L_ccl + (1 - lambda) L_dis of the paper over the global
batch. Arrays are global and sharded over the mesh's data axis; the partitioner gathers
the text embeddings, so the loss below reads like the one-device loss and equals it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, UInt8

from vl_ltr_jax import losses
from vl_ltr_jax.models import encode
from vl_ltr_jax.models.clip import Clip
from vl_ltr_jax.settings import Pretrain
from vl_ltr_jax.train_state import TrainState

Batch = dict[str, Array]
Metrics = dict[str, Array]
Prepare = Callable[[Key[Array, ""], UInt8[Array, "B H W 3"]], Float[Array, "B H W 3"]]
Step = Callable[[dict[str, Any], TrainState, Batch], tuple[TrainState, Metrics]]


def make_step(
    model: Clip,
    teacher_model: Clip,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    prepare: Prepare,
    options: Pretrain,
    seed: int,
) -> Step:
    """Builds the pure pre-training step `(teacher, state, batch) -> (state, metrics)`.

    Args:
      model: both towers, in training.
      teacher_model: the frozen CLIP's; only its image tower runs.
      optimizer: its updates are applied to the towers and the logit scale.
      schedule: learning rate by step, for the log.
      prepare: normalises and erases uint8 images on the device, given a key.
      options: the pre-training section of the configuration.
      seed: root of the step's random numbers, which depend on (seed, step) alone.

    Returns:
      The step. `teacher` holds the frozen CLIP's variables, or is empty without
      distillation. A batch holds `image` uint8 [B, H, W, 3], `label` int32 [B],
      `tokens` int32 [B, L] and, with distillation, `teacher_text` [B, D], the frozen
      CLIP's embeddings of the same sentences: its text tower never runs here.
    """
    distil = options.distillation != "none"

    def loss_fn(
        params: dict[str, Any],
        state: TrainState,
        images: Float[Array, "B H W 3"],
        batch: Batch,
        teacher_logits: Float[Array, "B B"] | None,
    ) -> tuple[Array, tuple[dict[str, Any], Metrics]]:
        variables = {"params": params}
        if state.batch_stats:
            variables["batch_stats"] = state.batch_stats
        train = options.train_batch_norm and bool(state.batch_stats)
        (image, text), updated = model.apply(
            variables,
            images,
            batch["tokens"],
            train=train,
            mutable=["batch_stats"] if train else [],
        )
        logits = losses.contrastive_logits(image, text, params["logit_scale"])
        contrastive, parts = losses.classwise_contrastive(
            logits,
            batch["label"],
            label_smoothing=options.label_smoothing,
            reduction=options.contrastive_reduction,
        )
        metrics = {"loss/contrastive": contrastive}
        metrics |= {f"loss/contrastive_{name}": part for name, part in parts.items()}
        total = contrastive
        if teacher_logits is not None:
            distillation, parts = losses.distillation(
                logits,
                teacher_logits,
                form=options.distillation,
                temperature=options.distillation_temperature,
            )
            metrics["loss/distillation"] = distillation
            metrics |= {
                f"loss/distillation_{name}": part for name, part in parts.items()
            }
            weight = options.distillation_weight
            total = (1 - weight) * contrastive + weight * distillation
        hit = batch["label"][jnp.argmax(logits, axis=1)] == batch["label"]
        metrics |= {"loss/total": total, "accuracy/batch_top1": 100 * jnp.mean(hit)}
        return total, (updated.get("batch_stats", state.batch_stats), metrics)

    def step(
        teacher: dict[str, Any], state: TrainState, batch: Batch
    ) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        images = prepare(key, batch["image"])
        teacher_logits = None
        if distil:
            teacher_logits = losses.contrastive_logits(
                encode.image(teacher_model, teacher, images),
                batch["teacher_text"],
                teacher["params"]["logit_scale"],
            )
        gradients, (batch_stats, metrics) = jax.grad(loss_fn, has_aux=True)(
            state.params, state, images, batch, teacher_logits
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
