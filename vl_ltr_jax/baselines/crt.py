"""cRT: the classifier trained again, with classes in turn (Kang et al., 2020)."""

import jax
import numpy as np

from vl_ltr_jax import training
from vl_ltr_jax.baselines.decoupled import Linear, Retrained, job
from vl_ltr_jax.models.linear import LinearHead
from vl_ltr_jax.run import Run
from vl_ltr_jax.settings import Method


class Crt(Retrained):
    """Classifier re-training."""

    name: Method = "crt"
    title = "cRT"

    def job(self, run: Run) -> training.Job:
        """A new FC, drawn at random and trained on the frozen features."""
        head = LinearHead(run.inputs.num_classes)
        features = np.zeros((1, run.inputs.clip_config.embed_dim), np.float32)
        # Other weights than those that the Baseline's FC has started from.
        key = jax.random.fold_in(jax.random.key(run.config.seed), 1)
        drawn = jax.jit(head.init)(key, features)
        return job(run, head, jax.tree.map(np.asarray, drawn["params"]))

    def make(self, run: Run) -> Linear:
        """That FC as it was trained."""
        visual_fc = self.trained(run)["visual_fc"]
        return Linear(np.asarray(visual_fc["kernel"]), np.asarray(visual_fc["bias"]))
