"""Balanced softmax: a softmax weighted by the training counts (Ren et al., 2020)."""

import numpy as np
from jaxtyping import Int

from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.systems.cross_entropy import Baseline
from vl_ltr_jax.systems.logit_adjustment import adjusted_loss
from vl_ltr_jax.train.finetune import Loss


class BalancedSoftmax(Baseline):
    """The Baseline with -log(n_y e^z_y / sum_c n_c e^z_c).

    The softmax is the same for counts and for their shares: this is the logit-adjusted
    loss with tau 1.
    """

    name = "balanced_softmax"
    title = "Balanced softmax"

    def make_loss(
        self, config: Config, train_counts: Int[np.ndarray, "C"], num_steps: int
    ) -> Loss:
        """Returns :func:`logit_adjustment.adjusted_loss`."""
        del config, num_steps
        return adjusted_loss(train_counts, tau=1.0)
