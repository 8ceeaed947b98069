"""Optimizer and learning-rate schedules of VL-LTR.

AdamW has up to three groups: parameters with `visual` in their path, others with a rate
of their own, and frozen ones, which have no moments.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax


def cosine_schedule(
    learning_rate: float,
    *,
    epochs: int,
    steps_per_epoch: int,
    warmup_epochs: int = 0,
    warmup_learning_rate: float = 1e-6,
    min_learning_rate: float = 0.0,
    per: Literal["epoch", "step"] = "epoch",
) -> optax.Schedule:
    """Builds a cosine decay with linear warm-up, as a function of the step.

    Args:
      learning_rate: peak rate.
      epochs: length of the run.
      steps_per_epoch: updates in an epoch.
      warmup_epochs: epochs from `warmup_learning_rate` up to the peak.
      warmup_learning_rate: at the start of the warm-up.
      min_learning_rate: at the end of the decay.
      per: 'epoch' is the authors' recipe. The rate changes once per epoch, one epoch
        late: the first two epochs share a value. The cosine starts at epoch 0, below
        the warm-up. 'step' changes at every step, with the whole cosine after it.
    """
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
    """Builds AdamW (betas 0.9 and 0.999, epsilon 1e-8) with the authors' groups.

    As in the authors' code, weight decay acts on every parameter whose rank is not 1.
    The 0-d logit scale is one of them.

    Args:
      params: parameters, or their shapes.
      schedule: rate of parameters with `visual` in their path; without
        `text_schedule`, of all parameters.
      weight_decay: decoupled decay, multiplied by the rate.
      text_schedule: rate of parameters without `visual` in their path.
      trainable: predicate of paths such as 'head/visual_fc/fc1/kernel'; other
        parameters never change and have no moments.

    Raises:
      ValueError: no parameter trains.
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
            f"trainable: no parameter of {len(jax.tree.leaves(params))} trains. "
            "Let at least one path train."
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
