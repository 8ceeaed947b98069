"""LWS: one learned factor for each class's logit (Kang et al., 2020)."""

import numpy as np

from vl_ltr_jax.baselines.decoupled import Decoupled, Linear, train
from vl_ltr_jax.baselines.recipe import change
from vl_ltr_jax.models.linear import ScaledHead
from vl_ltr_jax.run import Run
from vl_ltr_jax.settings import Config, Method


class Lws(Decoupled):
    """Learnable weight scaling."""

    name: Method = "lws"
    result = "lws"
    title = "LWS"

    def configure(self, config: Config) -> Config:
        """As the others of its kind, at a rate of its own."""
        rate = config.classifier.scale_learning_rate
        configured = super().configure(config)
        return change(configured, classifier={"learning_rate": rate})

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
        )
        scales = np.asarray(params["visual_scales"])
        return Linear(given.kernel * scales, given.bias * scales, told=told)
