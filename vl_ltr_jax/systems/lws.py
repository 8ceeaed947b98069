"""LWS: one learned factor for each class's logit (Kang et al., 2020)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.models.linear import ScaledHead
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.systems.decoupled import Linear, Retrained, job
from vl_ltr_jax.train import stage


class Lws(Retrained):
    """Learnable weight scaling."""

    name = "lws"
    title = "LWS"

    def defaults(self, config: Config) -> Mapping[str, Any]:
        """Returns the Baseline's, with epochs and rate of the factors."""
        options = config.classifier
        rate = options.scale_learning_rate or options.learning_rate
        return {
            **super().defaults(config),
            "classifier.epochs": options.scale_epochs or options.epochs,
            "classifier.learning_rate": rate,
            "classifier.scale_epochs": 0,
            "classifier.scale_learning_rate": 0.0,
        }

    def job(self, run: Run) -> stage.Job:
        """Returns the training of the factors; the Baseline's FC is frozen."""
        linear = self.finetuned(run)
        return job(
            run,
            ScaledHead(run.inputs.num_classes),
            {
                "visual_fc": {"kernel": linear.kernel, "bias": linear.bias},
                "visual_scales": np.ones(len(linear.bias), np.float32),
            },
            trainable=lambda path: path.endswith("visual_scales"),
        )

    def make(self, run: Run) -> Linear:
        """Returns the Baseline's FC, weights and biases scaled by the factors."""
        linear = self.finetuned(run)
        scales = np.asarray(self.trained(run)["visual_scales"])
        return Linear(linear.kernel * scales, linear.bias * scales)
