"""LDAM + DRW: margins that grow with rarity, weights late (Cao et al., 2019)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int

from vl_ltr_jax.config.settings import Config, Method
from vl_ltr_jax.method import losses
from vl_ltr_jax.models.linear import CosineHead
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.systems.class_counts import effective_number_weights
from vl_ltr_jax.systems.cross_entropy import Baseline
from vl_ltr_jax.train.finetune import Loss


class LdamDrw(Baseline):
    """The Baseline with cosines, margins, and re-weighting for the last steps."""

    name: Method = "ldam_drw"
    title = "LDAM + DRW"
    hard_labels = True

    def head(self, run: Run, towers: dict[str, Any]) -> nn.Module:
        """Cosines to a vector for each class."""
        del towers
        return CosineHead(run.inputs.num_classes)

    def score_scale(self, config: Config) -> float:
        """That of the training."""
        return config.rebalance.ldam_scale

    def make_loss(
        self, config: Config, train_counts: Int[np.ndarray, "C"], num_steps: int
    ) -> Loss:
        """See :func:`ldam`; weights are 1 until the deferred share of the steps."""
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
    """The step from which classes are weighted: the last `share` of all steps."""
    return num_steps - round(num_steps * share)


def ldam_margins(
    train_counts: Int[np.ndarray, "C"], max_margin: float
) -> Float64[np.ndarray, "C"]:
    """Margins proportional to n_c^-1/4, the largest of them `max_margin`."""
    margins = np.maximum(train_counts, 1).astype(np.float64) ** -0.25
    return margins * (max_margin / margins.max())


def ldam(
    cosines: Float[Array, "B C"],
    targets: Float[Array, "B C"],
    margins: Float[Array, " C"],
    class_weights: Float[Array, " C"],
    scale: float,
) -> Float[Array, ""]:
    """Cross entropy of scaled cosines, that of the own class less its margin.

    Args:
      cosines: from :class:`CosineHead`.
      targets: one-hot.
      margins: see :func:`ldam_margins`.
      class_weights: of each image's term; their mean over the batch is divided out, as
        in PyTorch's weighted cross entropy.
      scale: of the cosines.
    """
    weights = jnp.sum(targets * class_weights[None, :], axis=1, keepdims=True)
    shifted = scale * (cosines - targets * margins[None, :])
    return losses.cross_entropy(shifted, targets * weights / jnp.mean(weights))
