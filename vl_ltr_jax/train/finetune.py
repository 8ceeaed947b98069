"""Fine-tuning of the recognition head: the paper's L_rec = CE(P^I, y) + CE(P^T, y).

The text side is frozen: anchors are arrays, not the output of a tower. The image tower
is frozen or trained by configuration; it always runs with inference BatchNorm. Batches
of a frozen tower may hold cached features (see feature_views.py).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from vl_ltr_jax.method import losses
from vl_ltr_jax.models.lgr import AnchorConstants
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.train.embedder import Embedder
from vl_ltr_jax.train.state import Batch, Metrics, Step, TrainState

Mix = Callable[[Array, Array, Array], tuple[Array, Array]]
# From logits [B, C], targets [B, C] and the step to a scalar.
Loss = Callable[[Array, Array, Array], Array]


class PlacedAnchors(NamedTuple):
    """Anchors on the devices, split over `model`."""

    embeddings: Float[Array, "C M D"]
    padding: Bool[Array, "C M"]
    constants: AnchorConstants


class Frozen(NamedTuple):
    """Arrays that a fine-tuning step reads and never changes."""

    towers: dict[str, Any] | None  # None if batches hold features
    anchors: PlacedAnchors | None  # None for a head without language


def cross_entropy(
    logits: Float[Array, "B C"], targets: Float[Array, "B C"], step: Int[Array, ""]
) -> Float[Array, ""]:
    """Returns the mean cross entropy of L_rec, the same at every step."""
    del step
    return losses.cross_entropy(logits, targets)


def head_logits(
    head: nn.Module,
    params: dict[str, Any],
    features: Float[Array, "B D"],
    anchors: PlacedAnchors | None,
    mesh: jax.sharding.Mesh,
) -> dict[str, Float[Array, "B C"]]:
    """Returns `visual` logits and, with anchors, `language` logits.

    The head is a LanguageGuidedHead, or a LinearHead without anchors. Features are not
    normalised.
    """
    # Each device compares the images of its row of the mesh with its own classes.
    features = meshes.split_rows(mesh, features, "data")
    if anchors is None:
        return {"visual": cast(Array, head.apply({"params": params}, features))}
    visual, language = head.apply({"params": params}, features, *anchors)
    return {"visual": visual, "language": language}


def make_step(
    embedder: Embedder,
    head: nn.Module,
    optimizer: optax.GradientTransformation,
    schedules: Mapping[str, optax.Schedule],
    mix: Mix,
    *,
    loss: Loss = cross_entropy,
) -> Step:
    """Builds the pure fine-tuning step `(frozen, state, batch) -> (state, metrics)`.

    Args:
      embedder: embeds the images; its text tower does not run.
      head: in training.
      optimizer: over `{'head': ...}`, and `'visual'` for a trained tower.
      schedules: learning rates by step under their names in the log.
      mix: makes soft targets [B, C] of labels; mixes them, and the images or features.
      loss: of each branch of the head; L_rec is their sum.

    Returns:
      The step. `frozen` is a :class:`Frozen`. A batch holds `label` int32 [B], and
      `image` uint8 [B, H, W, 3] or `features` float32 [B, D].
    """

    def loss_fn(
        params: dict[str, Any],
        frozen: Frozen,
        pixels: Float[Array, "B *rest"],
        targets: Float[Array, "B C"],
        step: Int[Array, ""],
    ) -> tuple[Array, Metrics]:
        features = embedder.image_features(params, frozen.towers, pixels)
        logits = head_logits(
            head, params["head"], features, frozen.anchors, embedder.mesh
        )
        metrics = {
            f"loss/{branch}": loss(values, targets, step)
            for branch, values in logits.items()
        }
        total = sum(metrics.values(), jnp.zeros(()))
        hit = jnp.argmax(logits["visual"], axis=1) == jnp.argmax(targets, axis=1)
        metrics |= {"loss/total": total, "accuracy/batch_top1": 100 * jnp.mean(hit)}
        return total, metrics

    def step(
        frozen: Frozen, state: TrainState, batch: Batch
    ) -> tuple[TrainState, Metrics]:
        prepare_key, mix_key = jax.random.split(embedder.key(state.step))
        pixels = embedder.pixels(prepare_key, batch)
        pixels, targets = mix(mix_key, pixels, batch["label"])
        gradients, metrics = jax.grad(loss_fn, has_aux=True)(
            state.params, frozen, pixels, targets, state.step
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        metrics |= {name: rate(state.step) for name, rate in schedules.items()}
        metrics["gradient_norm"] = optax.tree.norm(gradients)
        after = dataclasses.replace(
            state,
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
        )
        return after, metrics

    return step
