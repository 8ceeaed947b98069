"""What a system of the paper's tables is, as far as a run needs to know."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import numpy as np
from jaxtyping import Int

from vl_ltr_jax.config.settings import Config, Method
from vl_ltr_jax.evaluate.split import Scorer
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.train import finetune
from vl_ltr_jax.train.finetune import Loss

Stage = Callable[[Run], dict[str, Any]]


class Recipe:
    """One system: how its configuration comes from VL-LTR's, and what it does else.

    A run takes the stages pretrain, embed, anchors, finetune and evaluate, as far as
    the configuration needs them; a recipe adds stages before the last, or puts its own
    in place of fine-tuning. The loop, the loader, the towers and evaluation stay as
    they are. This class is VL-LTR itself; a system overrides what differs.

    To add one: a loss is a subclass of `Baseline` with a `make_loss`, a classifier one
    of `Decoupled` with a `make`. Its name goes into `settings.Method`, an instance into
    `RECIPES`; numbers of its own are keys of `settings.Rebalance` or `Classifier`, or a
    section; `methods.finetuned_as` and `as_read_by` say what it shares and reads.
    Code that has changed makes no finished stage again: use another workdir.
    `tests/systems/test_recipes.py` has one with experts, a momentum copy, a queue and a
    test-time stage.

    How the heavier systems of the paper's tables would fit, on paper:

    - **BBN** (two branches, two samplers): its own `finetune` stage is a
      `stage.Job` with a `loader.Batches` of two, one of them by a reversed sampler
      that `batches/sampler.py` would get, a head of two branches, and a step whose loss
      mixes them by the share of steps done.
    - **ResLT** (residual branches): `head` returns three branches, which the stage's
      loss adds up for many, medium and few classes; `scorer` scores with their sum.
    - **RIDE** (experts and a router): `head` holds the experts, `make_loss` adds their
      diversity; the router is a second stage that reads `finetune` and leaves its own
      artifact; `scorer` averages the experts that the router takes.
    - **TADE** (test-time experts): as RIDE; then a stage reads the pictures of the test
      split, never their labels, learns the weights of the experts by agreement between
      two views, and leaves them for `scorer`.
    - **PaCo** (queue, momentum encoder): arrays that a step changes without a gradient
      are `TrainState.batch_stats`: the queue and the key encoder go there, and are
      saved, sharded and restored with the rest.
    - **SSD** (self-distillation): three stages: a teacher, its soft labels of all
      training images as an artifact (`feature_views.py` shows how), and a student that
      reads them through the batches.
    - **OLTR** (memory): the Baseline's stage; class centroids as in `ncm.py`; a third
      stage with centroids in `batch_stats` and attention in its head.
    - **DeiT** (no CLIP): `configure` empties `init.clip`; the distillation token needs
      a tower of its own in `models/`, the CNN teacher is one more tree in `frozen`.
    - **smDRAGON** (late fusion of class descriptions): class embeddings come from the
      `embed` artifact, which zero-shot evaluation brings along; a stage learns the
      fusion of visual and text scores, rescaled by the training counts, and `scorer`
      applies it.

    Attributes:
      name: value of `config.method`.
      title: in tables.
      result: the head of the results that is this system's line.
    """

    name: Method = "vl_ltr"
    title = "VL-LTR"
    result = "lgr"

    def configure(self, config: Config) -> Config:
        """The system's configuration, made from VL-LTR's on the same data set."""
        return dataclasses.replace(config, method=self.name)

    def faults(self, config: Config) -> list[str]:
        """What in a configuration contradicts this system, a line each."""
        del config
        return []

    def head_names(self) -> dict[str, str]:
        """Names of heads in a run's own report, where the usual ones do not fit."""
        return {} if self.result == "lgr" else {self.result: self.title}

    def head(self, run: Run, towers: dict[str, Any]) -> nn.Module | None:
        """The head that fine-tuning trains; None: `stages` and `scorer` see to it."""
        return run.head(towers)

    def make_loss(
        self, config: Config, train_counts: Int[np.ndarray, "C"], num_steps: int
    ) -> Loss:
        """What fine-tuning minimises, as a function of (logits, targets, step)."""
        del config, train_counts, num_steps
        return finetune.cross_entropy

    def score_scale(self, config: Config) -> float:
        """What makes logits of its head's scores."""
        del config
        return 1.0

    def stages(self) -> Mapping[str, Stage]:
        """Stages before evaluation, in order; `finetune` replaces that stage.

        Those before it are shared by all methods, so that they cannot be replaced.
        """
        return {}

    def scorer(self, run: Run) -> tuple[Any, Scorer] | None:
        """Arrays and a pure function that scores images with them; None: heads alone.

        Args:
          run: whose stages, but for evaluation, are finished.
        """
        del run
        return None


def change(config: Config, **sections: Mapping[str, Any]) -> Config:
    """A configuration with values changed, section by section."""
    changed = {
        name: dataclasses.replace(getattr(config, name), **values)
        for name, values in sections.items()
    }
    return dataclasses.replace(config, **changed)
