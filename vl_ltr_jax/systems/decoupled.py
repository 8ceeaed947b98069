"""Decoupled training (Kang et al., 2020): another classifier on given features.

The first stage is the Baseline, drawn uniformly. The second makes a linear classifier
of its features, by training or by arithmetic. NCM, cRT, tau-normalisation, LWS and
post-hoc logit adjustment differ in :meth:`Decoupled.make` alone.
"""

import abc
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from vl_ltr_jax.checkpoint.restore import load_params
from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.data.sources.dataset import Split
from vl_ltr_jax.evaluate.split import Scorer, Scores
from vl_ltr_jax.method import mixup
from vl_ltr_jax.models import linear
from vl_ltr_jax.run import embedding, head_training
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.systems.cross_entropy import Baseline
from vl_ltr_jax.systems.recipe import Stage
from vl_ltr_jax.train import finetune, stage

STAGE = "classifier"


class Linear(NamedTuple):
    """A linear classifier of features.

    Attributes:
      kernel: one column for each class.
      centre: subtracted from features before they are scaled to length 1; None to do
        neither.
      summary: numbers for the stage's summary.
    """

    kernel: Float32[np.ndarray, "D C"]
    bias: Float32[np.ndarray, "C"]
    centre: Float32[np.ndarray, "D"] | None = None
    summary: Mapping[str, Any] = {}


class Decoupled(Baseline, abc.ABC):
    """The Baseline, then a stage that makes a :class:`Linear`."""

    finetuning = Baseline.name

    def __init__(self) -> None:
        """Names the head after the method."""
        self.result = self.name

    def head_names(self) -> dict[str, str]:
        """Returns the Baseline's name for the FC, and the system's."""
        return {"fc": Baseline.title, self.result: self.title}

    @abc.abstractmethod
    def make(self, run: Run) -> Linear:
        """Returns the classifier, on every process.

        Args:
          run: finished up to fine-tuning.
        """

    def stages(self) -> Mapping[str, Stage]:
        """Returns a stage after fine-tuning."""
        return {STAGE: lambda run: self._save(run, {})}

    def _save(self, run: Run, summary: dict[str, Any]) -> dict[str, Any]:
        linear = self.make(run)
        arrays = {"kernel": linear.kernel, "bias": linear.bias}
        if linear.centre is not None:
            arrays["centre"] = linear.centre
        if jax.process_index() == 0:
            run.artifact(STAGE).save_arrays(**arrays)
        return {"arrays": sorted(arrays), **linear.summary, **summary}

    def scorer(self, run: Run) -> tuple[Any, Scorer]:
        """Returns scores by the arrays of the stage."""
        artifact = run.artifact(STAGE)
        names = artifact.summary()["arrays"]
        arrays = {name: artifact.load_array(name) for name in names}

        def score(
            arrays: Any, pixels: Float[Array, "B H W 3"], features: Float[Array, "B D"]
        ) -> Scores:
            del pixels
            return {self.result: linear.scores(arrays, features)}

        return arrays, score

    def finetuned(self, run: Run) -> Linear:
        """Returns the FC that the Baseline has trained."""
        visual_fc = run.finetuned()["head"]["visual_fc"]
        return Linear(np.asarray(visual_fc["kernel"]), np.asarray(visual_fc["bias"]))


class Retrained(Decoupled):
    """A decoupled system that trains its classifier, by the section `classifier`."""

    retrains = True

    def faults(self, config: Config) -> list[str]:
        """Returns the Baseline's faults, and that of an untrained classifier."""
        faults = super().faults(config)
        if not config.classifier.epochs:
            faults.append(
                f"classifier.epochs=0: method={self.name!r} would not train its "
                "classifier. Set at least 1."
            )
        return faults

    def stages(self) -> Mapping[str, Stage]:
        """Returns a stage that trains after fine-tuning."""
        return {STAGE: head_training.TrainingStage(self.job, self._save)}

    @abc.abstractmethod
    def job(self, run: Run) -> stage.Job:
        """Returns the training of the classifier.

        Args:
          run: finished up to fine-tuning.
        """

    def trained(self, run: Run) -> dict[str, Any]:
        """Returns the trained parameters; the stage has no summary yet."""
        directory = run.artifact(STAGE).directory / "checkpoints"
        return load_params(directory)["params"]["head"]


def embed_split(
    run: Run, towers: dict[str, Any], split: Split
) -> tuple[Float32[np.ndarray, "N D"], Int[np.ndarray, "N"]]:
    """Returns features of a split without augmentation, and labels, on every host.

    `towers` are variables on the host, such as :meth:`Run.finetuned_towers`.
    """
    encode = jax.jit(run.encode_image)
    return embedding.embed_images(
        functools.partial(encode, run.replicate(towers)),
        run.eval_batches(split, STAGE),
        run.mesh,
    )


def job(
    run: Run,
    head: nn.Module,
    params: dict[str, Any],
    trainable: Callable[[str], bool] = lambda path: True,
) -> stage.Job:
    """Returns the training of a head on frozen features, by the section `classifier`.

    Args:
      run: finished up to fine-tuning.
      head: from features to logits.
      params: initial parameters.
      trainable: True for the path of a parameter that trains.
    """
    options = run.config.classifier
    mix = functools.partial(
        mixup.mix,
        num_classes=run.inputs.num_classes,
        mixup_alpha=0.0,
        cutmix_alpha=0.0,
        label_smoothing=options.label_smoothing,
    )
    return head_training.job(
        run,
        STAGE,
        options,
        head=head,
        params={"head": params},
        towers=run.finetuned_towers(),
        anchors=None,
        mix=mix,
        make_loss=lambda num_steps: finetune.cross_entropy,
        trainable=trainable,
    )
