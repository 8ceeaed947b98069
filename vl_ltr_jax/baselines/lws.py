"""LWS: one learned factor for each class's logit (Kang et al., 2020)."""

import numpy as np

from vl_ltr_jax.baselines.decoupled import Decoupled, Linear, train
from vl_ltr_jax.models.linear import ScaledHead
from vl_ltr_jax.run import Run
from vl_ltr_jax.settings import Method


class Lws(Decoupled):
    """Learnable weight scaling."""

    name: Method = "lws"
    trains = True
    title = "LWS"

    def make(self, run: Run) -> Linear:
        """The Baseline's FC, weights and biases scaled by factors that alone train."""
        given = self.finetuned(run)
        params, told = train(
            run,
            ScaledHead(run.inputs.num_classes),
            {
                "visual_fc": {"kernel": given.kernel, "bias": given.bias},
                "visual_scales": np.ones(len(given.bias), np.float32),
            },
            trainable=lambda path: path.endswith("visual_scales"),
            learning_rate=run.config.classifier.scale_learning_rate,
        )
        scales = np.asarray(params["visual_scales"])
        return Linear(given.kernel * scales, given.bias * scales, told=told)
