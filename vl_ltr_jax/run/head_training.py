"""Training in a run; of a recognition head on images, or on features kept of them."""

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
from vl_ltr_jax.train.pretrain import Step

MakeLoss = Callable[[int], finetune.Loss]


@dataclasses.dataclass(frozen=True)
class TrainingStage:
    """A stage that trains, so that one of its steps can be made again.

    Attributes:
      job: makes what is trained.
      finish: from the run and the summary of its training to that of the stage.
    """

    job: Callable[[Run], training.Job]
    finish: Callable[[Run, dict[str, Any]], dict[str, Any]] = lambda run, told: told

    def __call__(self, run: Run) -> dict[str, Any]:
        """Trains to the end."""
        told = training.train(self.job(run), run.mesh, run.config)
        return self.finish(run, told)


def plan_of(run: Run, options: Training) -> training.Plan:
    """Returns the length of a stage; an epoch is the size of the training set."""
    return training.Plan.of(options, len(run.inputs.data.train))


def batches_of(
    run: Run, options: Training, *, with_text: bool
) -> Callable[[int], loader.Batches]:
    """From a first step to this process's training batches of a stage."""
    sentences = None
    if with_text:
        sentences = loader.Sentences(
            run.inputs.corpus.labels,
            run.inputs.tokens,
            run.mesh.size,
            run.config.mesh.accumulation_steps,
        )
    return lambda first_step: run_inputs.feed(
        run.config, options.global_batch_size
    ).train(
        run.inputs.data.train,
        run_inputs.train_transform(run.config),
        sampling=options.sampling,
        sentences=sentences,
        start_step=first_step,
    )


def job(
    run: Run,
    stage: str,
    options: Finetune | Classifier,
    *,
    head: nn.Module,
    params: dict[str, Any],
    towers: dict[str, Any],
    anchored: dict[str, Any],
    mix: finetune.Mix,
    make_loss: MakeLoss,
    trainable: Callable[[str], bool] = lambda path: True,
) -> training.Job:
    """Training of a head, and of the image tower where it is among the parameters.

    Args:
      run: whose training images are taken.
      stage: whose directory holds the checkpoints.
      options: the section of the configuration.
      head: from features to logits.
      params: to start from: `head`, and `visual` where the image tower trains.
      towers: the variables behind the head, on the host.
      anchored: what the head reads of the anchors, or nothing.
      mix: see :func:`finetune.make_step`.
      make_loss: from the number of steps to what is minimised.
      trainable: which parameters train, by path.
    """
    plan = plan_of(run, options)
    optimizer = optim.make_optimizer(
        params,
        schedule=plan.schedule,
        weight_decay=options.weight_decay,
        text_schedule=plan.text_schedule,
        trainable=trainable,
    )

    def make_step(optimizer: optax.GradientTransformation) -> Step:
        return finetune.make_step(
            run.model,
            head,
            optimizer,
            plan.schedules,
            run.prepare,
            mix,
            run.config.seed,
            run.mesh,
            loss=make_loss(plan.num_steps),
            accumulation_steps=run.config.mesh.accumulation_steps,
        )

    def behind() -> dict[str, Any]:
        still = {name: p for name, p in towers["params"].items() if name not in params}
        del still["text"]  # the anchors are made
        return run.place({**towers, "params": still})

    if options.feature_views:  # the tower has run when training starts
        batches = feature_views.batches_of(run, stage, options, behind)
    else:
        batches = batches_of(run, options, with_text=False)
    return training.Job(
        plan,
        make_step,
        optimizer,
        lambda: {
            **({} if options.feature_views else {"towers": behind()}),
            "anchors": anchored,
        },
        {"params": params},
        batches,
        run.artifact(stage).directory,
        row_probe.of_images(
            run.model,
            head,
            run.prepare,
            run.config.seed,
            run.mesh,
            accumulation_steps=run.config.mesh.accumulation_steps,
        ),
    )
