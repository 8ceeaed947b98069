"""cRT: the classifier trained again, with classes in turn (Kang et al., 2020)."""

import jax
import numpy as np

from vl_ltr_jax.models.linear import LinearHead, draw_as_torch
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.systems.decoupled import Linear, Retrained, job
from vl_ltr_jax.train import stage


class Crt(Retrained):
    """Classifier re-training."""

    name = "crt"
    title = "cRT"

    def job(self, run: Run) -> stage.Job:
        """Returns the training of a new FC on the frozen features."""
        num_classes, width = run.inputs.num_classes, run.inputs.clip_config.embed_dim
        # Not the weights from which the Baseline's FC started.
        key = jax.random.fold_in(jax.random.key(run.config.seed), 1)
        drawn = draw_as_torch(key, width, num_classes)
        return job(run, LinearHead(num_classes), jax.tree.map(np.asarray, drawn))

    def make(self, run: Run) -> Linear:
        """Returns the trained FC."""
        visual_fc = self.trained(run)["visual_fc"]
        return Linear(np.asarray(visual_fc["kernel"]), np.asarray(visual_fc["bias"]))
