"""Training stages of a run: plan, batches and job of a recognition head.

The head trains on images, or on cached features.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import optax
from flax import linen as nn

from vl_ltr_jax.config.settings import Classifier, Finetune, Training
from vl_ltr_jax.data.batches import loader
from vl_ltr_jax.run import feature_views
from vl_ltr_jax.run import inputs as run_inputs
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.train import finetune, optim, row_probe
from vl_ltr_jax.train import stage as training
from vl_ltr_jax.train.finetune import Frozen, PlacedAnchors
from vl_ltr_jax.train.state import Step

MakeLoss = Callable[[int], finetune.Loss]


@dataclasses.dataclass(frozen=True)
class TrainingStage:
    """A stage that trains; replay repeats its steps.

    Attributes:
      job: builds the training.
      finish: from the run and the summary of its training to that of the stage.
    """

    job: Callable[[Run], training.Job]
    finish: Callable[[Run, dict[str, Any]], dict[str, Any]] = lambda run, summary: (
        summary
    )

    def __call__(self, run: Run) -> dict[str, Any]:
        """Trains to the end, and returns the summary."""
        return self.finish(run, training.train(self.job(run), run.mesh, run.config))


def plan_of(run: Run, section: Training) -> training.Plan:
    """Returns the length of a stage; an epoch is the size of the training set."""
    return training.Plan.from_section(section, len(run.inputs.data.train))


def batches_of(
    run: Run, section: Training, *, with_text: bool
) -> Callable[[int], loader.Batches]:
    """Returns a function from a first step to this process's training batches."""
    sentences = None
    if with_text:
        sentences = loader.Sentences(
            run.inputs.corpus.labels,
            run.inputs.tokens,
            run.mesh.size,
            run.config.mesh.accumulation_steps,
        )
    feed = run_inputs.feed(run.config, section.global_batch_size)
    return lambda first_step: feed.train(
        run.inputs.data.train,
        run_inputs.train_transform(run.config),
        sampling=section.sampling,
        sentences=sentences,
        start_step=first_step,
    )


def job(
    run: Run,
    stage: str,
    section: Finetune | Classifier,
    *,
    head: nn.Module,
    params: dict[str, Any],
    towers: dict[str, Any],
    anchors: PlacedAnchors | None,
    mix: finetune.Mix,
    make_loss: MakeLoss,
    trainable: Callable[[str], bool] = lambda path: True,
) -> training.Job:
    """Builds the training of a head, and of the image tower if `params` has one.

    Args:
      run: has the images.
      stage: name of the directory of checkpoints.
      section: of the stage.
      head: from features to logits.
      params: initial `head`, and `visual` for a trained tower.
      towers: variables of the towers, on the host.
      anchors: of the head, if it reads any.
      mix: see :func:`finetune.make_step`.
      make_loss: from the number of steps to the loss of a branch.
      trainable: predicate of parameters by path.
    """
    plan = plan_of(run, section)

    def make_step(optimizer: optax.GradientTransformation) -> Step:
        return finetune.make_step(
            run.embedder,
            head,
            optimizer,
            plan.schedules,
            mix,
            loss=make_loss(plan.num_steps),
        )

    def frozen_tower() -> dict[str, Any]:
        frozen = {name: p for name, p in towers["params"].items() if name not in params}
        del frozen["text"]  # the step reads anchors instead
        return run.place({**towers, "params": frozen})

    if section.feature_views:  # the tower has run when training starts
        batches = feature_views.batches_of(run, stage, section, frozen_tower)
    else:
        batches = batches_of(run, section, with_text=False)
    return training.Job(
        plan,
        make_step,
        optim.make_optimizer(
            params,
            schedule=plan.schedule,
            weight_decay=section.weight_decay,
            text_schedule=plan.text_schedule,
            trainable=trainable,
        ),
        lambda: Frozen(None if section.feature_views else frozen_tower(), anchors),
        {"params": params},
        batches,
        run.artifact(stage).directory,
        row_probe.of_images(run.embedder, head),
    )
