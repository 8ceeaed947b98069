"""CB-Focal: focal loss weighted by effective numbers of samples (Cui et al., 2019)."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vl_ltr_jax.config.settings import Config, Method
from vl_ltr_jax.models.linear import LinearHead
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.systems.class_counts import effective_number_weights
from vl_ltr_jax.systems.cross_entropy import Baseline
from vl_ltr_jax.train.finetune import Loss


class CbFocal(Baseline):
    """The Baseline with the class-balanced focal loss."""

    name: Method = "cb_focal"
    title = "CB-Focal"
    hard_labels = True

    def head(self, run: Run, towers: dict[str, Any]) -> nn.Module | None:
        """FC; biases start where every class has the probability 1 / C, as theirs."""
        linear = super().head(run, towers)
        if not isinstance(linear, LinearHead):  # refused with the configuration
            return linear
        return linear.clone(initial_bias=-math.log(max(linear.num_classes - 1, 1)))

    def make_loss(
        self, config: Config, train_counts: Int[np.ndarray, "C"], num_steps: int
    ) -> Loss:
        """See :func:`class_balanced_focal`."""
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
    """Mean over images of -w_y sum_c (1 - p_c)^gamma log p_c, with sigmoids.

    p_c is sigmoid(z_c) for the class of the image and sigmoid(-z_c) for all others.

    Args:
      logits: z, one for each class.
      targets: one-hot.
      class_weights: w, see :func:`class_counts.effective_number_weights`.
      gamma: focusing; 0 is weighted binary cross entropy.
    """
    signed = jnp.where(targets > 0.5, logits, -logits).astype(jnp.float32)
    # As logarithms: a power of a sigmoid that is 0 has no gradient.
    modulators = jnp.exp(gamma * jax.nn.log_sigmoid(-signed))
    rows = -jnp.sum(modulators * jax.nn.log_sigmoid(signed), axis=1)
    return jnp.mean(rows * jnp.sum(targets * class_weights[None, :], axis=1))
