"""Decoupled training (Kang et al., 2020): another classifier on given features.

Representation and classifier are learned apart: the first stage is the Baseline, drawn
uniformly; the second makes a linear classifier of its features, by training or by
arithmetic. NCM, cRT, tau-normalisation, LWS and post-hoc logit adjustment differ in
:meth:`Decoupled.make` alone.
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
      kernel: a column for each class.
      bias: of each class.
      centre: subtracted from features, which are then scaled to length 1; None takes
        them as they are.
      told: numbers for the stage's summary.
    """

    kernel: Float32[np.ndarray, "D C"]
    bias: Float32[np.ndarray, "C"]
    centre: Float32[np.ndarray, "D"] | None = None
    told: Mapping[str, Any] = {}


class Decoupled(Baseline, abc.ABC):
    """The Baseline, then a stage that leaves a :class:`Linear`.

    Attributes:
      trains: whether that stage trains, by the section `classifier`.
    """

    trains = False

    def __init__(self) -> None:
        """Its line is that of the classifier, under the method's name."""
        self.result = self.name

    def head_names(self) -> dict[str, str]:
        """The FC is that of the first stage, so the Baseline's."""
        return {"fc": Baseline.title, self.result: self.title}

    def faults(self, config: Config) -> list[str]:
        """Those of the Baseline, and no training where there must be some."""
        faults = super().faults(config)
        if self.trains and not config.classifier.epochs:
            faults.append(
                f"method={self.name!r} with classifier.epochs=0: its classifier would "
                "stay as it was drawn; train it for at least 1"
            )
        return faults

    @abc.abstractmethod
    def make(self, run: Run) -> Linear:
        """The classifier, on every process.

        Args:
          run: whose fine-tuning is finished.
        """

    def stages(self) -> Mapping[str, Stage]:
        """One more, after fine-tuning."""
        return {STAGE: lambda run: self._keep(run, {})}

    def _keep(self, run: Run, told: dict[str, Any]) -> dict[str, Any]:
        made = self.make(run)
        arrays = {"kernel": made.kernel, "bias": made.bias}
        if made.centre is not None:
            arrays["centre"] = made.centre
        if jax.process_index() == 0:
            run.artifact(STAGE).save_arrays(**arrays)
        return {"arrays": sorted(arrays), **made.told, **told}

    def scorer(self, run: Run) -> tuple[Any, Scorer]:
        """Scores by what the stage has left."""
        left = run.artifact(STAGE)
        arrays = {name: left.load_array(name) for name in left.summary()["arrays"]}

        def score(
            arrays: Any, pixels: Float[Array, "B H W 3"], features: Float[Array, "B D"]
        ) -> Scores:
            del pixels
            return {self.result: linear.scores(arrays, features)}

        return arrays, score

    def finetuned(self, run: Run) -> Linear:
        """The FC that the Baseline has trained."""
        visual_fc = run.finetuned()["head"]["visual_fc"]
        return Linear(np.asarray(visual_fc["kernel"]), np.asarray(visual_fc["bias"]))


class Retrained(Decoupled):
    """Those whose classifier is trained, by the section `classifier`."""

    trains = True

    def stages(self) -> Mapping[str, Stage]:
        """One more that trains, after fine-tuning."""
        return {STAGE: head_training.TrainingStage(self.job, self._keep)}

    @abc.abstractmethod
    def job(self, run: Run) -> stage.Job:
        """What that stage trains.

        Args:
          run: whose fine-tuning is finished.
        """

    def trained(self, run: Run) -> dict[str, Any]:
        """The parameters that it has trained."""
        directory = run.artifact(STAGE).directory / "checkpoints"
        return load_params(directory)["params"]["head"]


def embed_split(
    run: Run, towers: dict[str, Any], split: Split
) -> tuple[Float32[np.ndarray, "N D"], Int[np.ndarray, "N"]]:
    """Features of a split's images as evaluation sees them, and labels, on every host.

    Args:
      run: whose settings are taken.
      towers: variables on the host, such as :meth:`Run.finetuned_towers`.
      split: of its data.
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
    """Training of a head on the frozen features, by the section `classifier`.

    Args:
      run: whose fine-tuning is finished.
      head: from features to logits.
      params: its parameters to start from.
      trainable: which of them train, by path.
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
