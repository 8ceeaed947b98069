"""CB-Focal: focal loss weighted by effective numbers of samples (Cui et al., 2019)."""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.models.linear import LinearHead
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.systems.class_counts import effective_number_weights
from vl_ltr_jax.systems.cross_entropy import HARD_LABELS, Baseline
from vl_ltr_jax.train.finetune import Loss


class CbFocal(Baseline):
    """The Baseline with the class-balanced focal loss."""

    name = "cb_focal"
    title = "CB-Focal"
    needs: Mapping[str, Any] = {**Baseline.needs, **HARD_LABELS}
    reads = ("class_balanced_beta", "focal_gamma")

    def head(self, run: Run, towers: dict[str, Any]) -> nn.Module | None:
        """Returns an FC whose first probabilities are 1 / C, as theirs."""
        linear = super().head(run, towers)
        if not isinstance(linear, LinearHead):  # the configuration is refused
            return linear
        return linear.clone(initial_bias=-math.log(max(linear.num_classes - 1, 1)))

    def make_loss(
        self, config: Config, train_counts: Int[np.ndarray, "C"], num_steps: int
    ) -> Loss:
        """Returns :func:`class_balanced_focal`."""
        options = config.rebalance
        weights = jnp.asarray(
            effective_number_weights(train_counts, options.class_balanced_beta),
            jnp.float32,
        )
        return lambda logits, targets, step: class_balanced_focal(
            logits, targets, weights, options.focal_gamma
        )


def class_balanced_focal(
    logits: Float[Array, "B C"],
    targets: Float[Array, "B C"],
    class_weights: Float[Array, " C"],
    gamma: float,
) -> Float[Array, ""]:
    """Returns the mean over images of -w_y sum_c (1 - p_c)^gamma log p_c.

    p_c is sigmoid(z_c) for the class of the image and sigmoid(-z_c) for all others.

    Args:
      logits: z.
      targets: one-hot.
      class_weights: w, from :func:`class_counts.effective_number_weights`.
      gamma: focusing; 0 is weighted binary cross entropy.
    """
    signed = jnp.where(targets > 0.5, logits, -logits).astype(jnp.float32)
    # As logarithms: a power of a sigmoid that is 0 has no gradient.
    modulators = jnp.exp(gamma * jax.nn.log_sigmoid(-signed))
    rows = -jnp.sum(modulators * jax.nn.log_sigmoid(signed), axis=1)
    return jnp.mean(rows * jnp.sum(targets * class_weights[None, :], axis=1))
