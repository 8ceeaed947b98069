"""Logit adjustment by the training priors (Menon et al., 2021), in both its forms.

The loss adds tau log pi_c to the logits while training. The post-hoc form subtracts it
from those of the finished Baseline.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.method import losses
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.systems.class_counts import log_priors
from vl_ltr_jax.systems.cross_entropy import Baseline
from vl_ltr_jax.systems.decoupled import Decoupled, Linear
from vl_ltr_jax.train.finetune import Loss


class LogitAdjustment(Baseline):
    """The Baseline with the logit-adjusted loss."""

    name = "logit_adjustment"
    title = "Logit adjustment (loss)"
    reads = ("logit_adjustment_tau",)

    def finetuned_as(self, config: Config) -> str:
        """Returns balanced softmax for tau 1: log pi is log n, less a constant."""
        same = config.rebalance.logit_adjustment_tau == 1
        return "balanced_softmax" if same else self.name

    def make_loss(
        self, config: Config, train_counts: Int[np.ndarray, "C"], num_steps: int
    ) -> Loss:
        """Returns :func:`adjusted_loss`."""
        del num_steps
        return adjusted_loss(train_counts, config.rebalance.logit_adjustment_tau)


class PostHocLogitAdjustment(Decoupled):
    """The Baseline's logits, less tau log pi."""

    name = "logit_adjustment_post_hoc"
    title = "Logit adjustment (post-hoc)"
    reads = ("logit_adjustment_tau",)

    def make(self, run: Run) -> Linear:
        """Returns the Baseline's FC with other biases."""
        tau = run.config.rebalance.logit_adjustment_tau
        linear = self.finetuned(run)
        shift = tau * log_priors(run.inputs.data.train_counts)
        return Linear(linear.kernel, linear.bias - shift.astype(np.float32))


def adjusted_loss(train_counts: Int[np.ndarray, "C"], tau: float) -> Loss:
    """Returns cross entropy of z + tau log pi, pi the shares of training images."""
    shift = jnp.asarray(tau * log_priors(train_counts), jnp.float32)[None, :]

    def loss(
        logits: Float[Array, "B C"], targets: Float[Array, "B C"], step: Int[Array, ""]
    ) -> Float[Array, ""]:
        del step
        return losses.cross_entropy(logits + shift, targets)

    return loss
