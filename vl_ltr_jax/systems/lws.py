"""LWS: one learned factor for each class's logit (Kang et al., 2020)."""

import numpy as np

from vl_ltr_jax.config.settings import Config, Method
from vl_ltr_jax.models.linear import ScaledHead
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.systems.decoupled import Linear, Retrained, job
from vl_ltr_jax.systems.recipe import change
from vl_ltr_jax.train import stage


class Lws(Retrained):
    """Learnable weight scaling."""

    name: Method = "lws"
    title = "LWS"

    def configure(self, config: Config) -> Config:
        """Returns the Baseline's configuration with LWS's own epochs and rate."""
        options = config.classifier
        own = {
            "epochs": options.scale_epochs or options.epochs,
            "learning_rate": options.scale_learning_rate or options.learning_rate,
        }
        own |= {f"scale_{key}": 0 for key in own}
        return change(super().configure(config), classifier=own)

    def faults(self, config: Config) -> list[str]:
        """Returns the Baseline's faults, and keys without effect."""
        faults = super().faults(config)
        for key in ("epochs", "learning_rate"):
            if value := getattr(config.classifier, f"scale_{key}"):
                faults.append(
                    f"classifier.scale_{key}={value}: method={self.name!r} has it in "
                    f"classifier.{key}. Set that."
                )
        return faults

    def job(self, run: Run) -> stage.Job:
        """Factors of the Baseline's FC, weights and biases, which alone train."""
        given = self.finetuned(run)
        return job(
            run,
            ScaledHead(run.inputs.num_classes),
            {
                "visual_fc": {"kernel": given.kernel, "bias": given.bias},
                "visual_scales": np.ones(len(given.bias), np.float32),
            },
            trainable=lambda path: path.endswith("visual_scales"),
        )

    def make(self, run: Run) -> Linear:
        """The Baseline's FC scaled by them."""
        given = self.finetuned(run)
        scales = np.asarray(self.trained(run)["visual_scales"])
        return Linear(given.kernel * scales, given.bias * scales)
