"""Fine-tuning of the recognition head: the paper's L_rec = CE(P^I, y) + CE(P^T, y).

The text side is frozen: anchors are arrays, not the output of a tower. The image tower
is frozen or trained by configuration; it always runs with inference BatchNorm. Where it
is frozen, batches may hold the features it made before (see feature_views.py).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int

from vl_ltr_jax.method import losses
from vl_ltr_jax.models import encode
from vl_ltr_jax.models.clip import Clip
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.train import chunks
from vl_ltr_jax.train.pretrain import Batch, Metrics, Prepare, Step
from vl_ltr_jax.train.state import TrainState

Mix = Callable[[Array, Array, Array], tuple[Array, Array]]
# Logits [B, C], targets [B, C] and the step, to a scalar.
Loss = Callable[[Array, Array, Array], Array]


def cross_entropy(
    logits: Float[Array, "B C"], targets: Float[Array, "B C"], step: Int[Array, ""]
) -> Float[Array, ""]:
    """The mean cross entropy of L_rec, the same at every step."""
    del step
    return losses.cross_entropy(logits, targets)


def head_logits(
    head: nn.Module,
    params: dict[str, Any],
    features: Float[Array, "B D"],
    anchors: dict[str, Any],
    mesh: jax.sharding.Mesh,
) -> dict[str, Float[Array, "B C"]]:
    """Logits of each branch of a head.

    Args:
      head: a LanguageGuidedHead, or a LinearHead where there are no anchors.
      params: the head's parameters.
      features: image embeddings, not normalised.
      anchors: `embeddings` [C, M, D], `padding` [C, M] and the `constants` made of
        them, split over `model`, or empty.
      mesh: the devices; features are split over `data` here.

    Returns:
      `visual` logits, and `language` logits where there are anchors.
    """
    # Each device compares the images of its row of the mesh with its own classes.
    features = meshes.split_rows(mesh, features, "data")
    if not anchors:
        return {"visual": cast(Array, head.apply({"params": params}, features))}
    visual, language = head.apply(
        {"params": params},
        features,
        anchors["embeddings"],
        anchors["padding"],
        anchors["constants"],
    )
    return {"visual": visual, "language": language}


def features_of(
    model: Clip,
    params: dict[str, Any],
    frozen: dict[str, Any],
    given: Float[Array, "B *rest"],
    accumulation_steps: int,
    mesh: jax.sharding.Mesh,
) -> Float[Array, "B D"]:
    """Embeds prepared images [B, H, W, 3]; what are features already stays as it is.

    Args:
      model: both towers; only the image tower runs.
      params: those that train, `visual` among them where the image tower does.
      frozen: `towers`, where there are images.
      given: images, or features.
      accumulation_steps: chunks of the global batch.
      mesh: the devices.
    """
    if given.ndim == 2:
        return given
    towers = frozen["towers"]
    if "visual" in params:
        merged = {**towers["params"], "visual": params["visual"]}
        towers = {**towers, "params": merged}
    embedded = chunks.embed(
        functools.partial(encode.image, model),
        towers,
        given,
        accumulation_steps,
        mesh,
    )
    return cast(Array, embedded)


def make_step(
    model: Clip,
    head: nn.Module,
    optimizer: optax.GradientTransformation,
    schedules: Mapping[str, optax.Schedule],
    prepare: Prepare,
    mix: Mix,
    seed: int,
    mesh: jax.sharding.Mesh,
    *,
    loss: Loss = cross_entropy,
    accumulation_steps: int = 1,
) -> Step:
    """Builds the pure fine-tuning step `(frozen, state, batch) -> (state, metrics)`.

    Args:
      model: both towers; only the image tower runs.
      head: the recognition head.
      optimizer: over `{'head': ...}` and, when it trains, `'visual'`.
      schedules: learning rates by step under their names in the log.
      prepare: normalises and erases uint8 images on the device, given a key.
      mix: makes soft targets [B, C] of labels, and mixes them and the images, or the
        features of a batch that holds these.
      seed: root of the step's random numbers, which depend on (seed, step) alone.
      mesh: the devices.
      loss: of each branch of the head; L_rec is their sum.
      accumulation_steps: chunks of the global batch that the tower embeds in turn;
        each divides over the mesh.

    Returns:
      The step. `frozen` holds `towers` (the pre-trained variables) and `anchors`. A
      batch holds `label` int32 [B], and `image` uint8 [B, H, W, 3] or `features`
      float32 [B, D]; with features nothing is prepared and no tower runs, so `frozen`
      needs no `towers`.
    """

    def loss_fn(
        params: dict[str, Any],
        frozen: dict[str, Any],
        given: Float[Array, "B *rest"],
        targets: Float[Array, "B C"],
        step: Int[Array, ""],
    ) -> tuple[Array, Metrics]:
        features = features_of(model, params, frozen, given, accumulation_steps, mesh)
        logits = head_logits(head, params["head"], features, frozen["anchors"], mesh)
        metrics = {
            f"loss/{branch}": loss(values, targets, step)
            for branch, values in logits.items()
        }
        total = sum(metrics.values(), jnp.zeros(()))
        hit = jnp.argmax(logits["visual"], axis=1) == jnp.argmax(targets, axis=1)
        metrics |= {"loss/total": total, "accuracy/batch_top1": 100 * jnp.mean(hit)}
        return total, metrics

    def step(
        frozen: dict[str, Any], state: TrainState, batch: Batch
    ) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        prepare_key, mix_key = jax.random.split(key)
        rows = jnp.arange(len(batch["label"]))
        if "features" in batch:
            given = batch["features"]
        else:
            given = prepare(prepare_key, batch["image"], rows)
        given, targets = mix(mix_key, given, batch["label"])
        gradients, metrics = jax.grad(loss_fn, has_aux=True)(
            state.params, frozen, given, targets, state.step
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        metrics |= {name: rate(state.step) for name, rate in schedules.items()}
        metrics["gradient_norm"] = optax.tree.norm(gradients)
        return (
            dataclasses.replace(
                state,
                step=state.step + 1,
                params=optax.apply_updates(state.params, updates),
                opt_state=opt_state,
            ),
            metrics,
        )

    return step
