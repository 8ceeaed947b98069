"""LDAM + DRW: margins that grow with rarity, weights late (Cao et al., 2019)."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int

from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.method import losses
from vl_ltr_jax.models.linear import CosineHead
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.systems.class_counts import effective_number_weights
from vl_ltr_jax.systems.cross_entropy import HARD_LABELS, Baseline
from vl_ltr_jax.train.finetune import Loss


class LdamDrw(Baseline):
    """The Baseline with cosines, margins, and re-weighting for the last steps."""

    name = "ldam_drw"
    title = "LDAM + DRW"
    needs: Mapping[str, Any] = {**Baseline.needs, **HARD_LABELS}
    reads = ("ldam_max_margin", "ldam_scale", "deferred_beta", "deferred_share")

    def head(self, run: Run, towers: dict[str, Any]) -> nn.Module:
        """Returns a head of cosines between features and a vector for each class."""
        del towers
        return CosineHead(run.inputs.num_classes)

    def score_scale(self, config: Config) -> float:
        """Returns the scale of the training."""
        return config.rebalance.ldam_scale

    def make_loss(
        self, config: Config, train_counts: Int[np.ndarray, "C"], num_steps: int
    ) -> Loss:
        """Returns :func:`ldam`; weights are 1 until the deferred share of the steps."""
        options = config.rebalance
        margins = jnp.asarray(
            ldam_margins(train_counts, options.ldam_max_margin), jnp.float32
        )
        late = jnp.asarray(
            effective_number_weights(train_counts, options.deferred_beta), jnp.float32
        )
        first = first_deferred_step(num_steps, options.deferred_share)
        return lambda logits, targets, step: ldam(
            logits,
            targets,
            margins,
            jnp.where(step >= first, late, 1.0),
            options.ldam_scale,
        )


def first_deferred_step(num_steps: int, share: float) -> int:
    """Returns the first weighted step; the last `share` of all steps are weighted."""
    return num_steps - round(num_steps * share)


def ldam_margins(
    train_counts: Int[np.ndarray, "C"], max_margin: float
) -> Float64[np.ndarray, "C"]:
    """Returns margins proportional to n_c^-1/4, the largest of them `max_margin`."""
    margins = np.maximum(train_counts, 1).astype(np.float64) ** -0.25
    return margins * (max_margin / margins.max())


def ldam(
    cosines: Float[Array, "B C"],
    targets: Float[Array, "B C"],
    margins: Float[Array, " C"],
    class_weights: Float[Array, " C"],
    scale: float,
) -> Float[Array, ""]:
    """Returns cross entropy of scaled cosines, less a margin for the own class.

    Args:
      cosines: from :class:`CosineHead`.
      targets: one-hot.
      margins: from :func:`ldam_margins`.
      class_weights: weights of the images' terms. Their mean over the batch is divided
        out, as in PyTorch's weighted cross entropy.
      scale: factor of the cosines.
    """
    weights = jnp.sum(targets * class_weights[None, :], axis=1, keepdims=True)
    shifted = scale * (cosines - targets * margins[None, :])
    return losses.cross_entropy(shifted, targets * weights / jnp.mean(weights))
