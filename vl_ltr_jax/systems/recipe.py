"""Base class of the systems of the paper's tables."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import numpy as np
from jaxtyping import Int

from vl_ltr_jax.config.methods import Method
from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.evaluate.split import Scorer
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.train import finetune
from vl_ltr_jax.train.finetune import Loss

Stage = Callable[[Run], dict[str, Any]]


class Recipe(Method):
    """One system: its configuration, and its differences from VL-LTR.

    A run takes the stages pretrain, embed, anchors, finetune and evaluate, as far as
    the configuration needs them. A recipe adds stages before the last, or replaces
    fine-tuning. This class is VL-LTR itself; a system overrides what differs. README.md
    says how to add one, and how heavier systems would fit.

    Attributes:
      title: name in tables.
      result: head of the results that is this system's row.
    """

    title = "VL-LTR"
    result = "lgr"

    def head_names(self) -> dict[str, str]:
        """Returns names of heads in a run's report that differ from the usual ones."""
        return {} if self.result == "lgr" else {self.result: self.title}

    def head(self, run: Run, towers: dict[str, Any]) -> nn.Module | None:
        """Returns the head that fine-tuning trains; None leaves it to `stages`."""
        return run.head(towers)

    def make_loss(
        self, config: Config, train_counts: Int[np.ndarray, "C"], num_steps: int
    ) -> Loss:
        """Returns the loss of fine-tuning, a function of (logits, targets, step)."""
        del config, train_counts, num_steps
        return finetune.cross_entropy

    def score_scale(self, config: Config) -> float:
        """Returns the factor from the head's scores to logits."""
        del config
        return 1.0

    def stages(self) -> Mapping[str, Stage]:
        """Returns stages before evaluation, in order; `finetune` replaces that stage.

        Those before it are shared by all methods, so a recipe cannot replace them.
        """
        return {}

    def scorer(self, run: Run) -> tuple[Any, Scorer] | None:
        """Returns arrays and a pure function that scores images with them, if any.

        Args:
          run: finished up to evaluation.
        """
        del run
        return None
