"""Optimizer and learning-rate schedules of VL-LTR.

AdamW in up to three groups: parameters whose path contains `visual`, all others (when
they have a rate of their own), and frozen ones, which carry no moments.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

SCHEDULES = ("epoch", "step")


def cosine_schedule(
    learning_rate: float,
    *,
    epochs: int,
    steps_per_epoch: int,
    warmup_epochs: int = 0,
    warmup_learning_rate: float = 1e-6,
    min_learning_rate: float = 0.0,
    per: str = "epoch",
) -> optax.Schedule:
    """Cosine decay with linear warm-up, as a function of the step.

    Args:
      learning_rate: peak rate.
      epochs: length of the run.
      steps_per_epoch: updates in an epoch.
      warmup_epochs: epochs from `warmup_learning_rate` up to the peak.
      warmup_learning_rate: rate at the start of the warm-up.
      min_learning_rate: rate at the end of the decay.
      per: 'epoch' is the authors' recipe: the rate changes once per epoch, one epoch
        late (the first two run at the first value), and leaves the warm-up for the
        point of the cosine that it would have reached from the start. 'step' changes
        at every step, with the whole cosine after the warm-up.

    Raises:
      ValueError: if `per` is not in `SCHEDULES`, or no epoch is left after warm-up.
    """
    if per not in SCHEDULES:
        raise ValueError(f"schedule per {per!r}: not one of {SCHEDULES}")
    if epochs and warmup_epochs >= epochs:
        raise ValueError(
            f"warmup_epochs={warmup_epochs} leaves nothing of epochs={epochs}; "
            "warm up for fewer"
        )
    decay_start = 0 if per == "epoch" else warmup_epochs
    decay_epochs = max(epochs - decay_start, 1)
    climb = (learning_rate - warmup_learning_rate) / max(warmup_epochs, 1)

    def schedule(step: Any) -> jax.Array:
        epoch = jnp.asarray(step) / steps_per_epoch
        if per == "epoch":
            epoch = jnp.maximum(jnp.asarray(step) // steps_per_epoch - 1, 0)
        share = jnp.clip((epoch - decay_start) / decay_epochs, 0, 1)
        cosine = (1 + jnp.cos(jnp.pi * share)) / 2
        decayed = min_learning_rate + (learning_rate - min_learning_rate) * cosine
        warming = warmup_learning_rate + climb * epoch
        return jnp.where(epoch < warmup_epochs, warming, decayed)

    return schedule


def make_optimizer(
    params: Any,
    *,
    schedule: optax.Schedule,
    weight_decay: float,
    text_schedule: optax.Schedule | None = None,
    trainable: Callable[[str], bool] = lambda path: True,
) -> optax.GradientTransformation:
    """AdamW (betas 0.9 and 0.999, epsilon 1e-8) in the authors' parameter groups.

    Weight decay acts on every parameter whose rank is not 1, so also on the 0-d logit
    scale, as in the authors' code.

    Args:
      params: the parameters, or their shapes.
      schedule: rate of parameters with `visual` in their path, and of all others when
        there is no `text_schedule`.
      weight_decay: decoupled decay, multiplied by the rate.
      text_schedule: rate of the parameters without `visual` in their path.
      trainable: tells from a path such as 'head/visual_fc/fc1/kernel' whether the
        parameter trains; others never change and have no moments.

    Raises:
      ValueError: if no parameter trains.
    """

    def group(path: str) -> str:
        if not trainable(path):
            return "frozen"
        return "text" if text_schedule and "visual" not in path else "visual"

    groups = jax.tree_util.tree_map_with_path(
        lambda path, _: group(jax.tree_util.keystr(path, simple=True, separator="/")),
        params,
    )
    used = set(jax.tree.leaves(groups))
    if not used - {"frozen"}:
        raise ValueError(
            f"none of the {len(jax.tree.leaves(params))} parameters trains; "
            "`trainable` must hold for at least one path"
        )

    def adamw(schedule: optax.Schedule) -> optax.GradientTransformation:
        return optax.adamw(
            schedule,
            weight_decay=weight_decay,
            mask=lambda tree: jax.tree.map(lambda leaf: leaf.ndim != 1, tree),
        )

    transforms = {"visual": adamw(schedule), "frozen": optax.set_to_zero()}
    if text_schedule:
        transforms["text"] = adamw(text_schedule)
    return optax.partition({name: transforms[name] for name in used}, groups)
