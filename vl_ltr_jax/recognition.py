"""Training of a recognition head in a run: on images, or on features kept of them."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn

from vl_ltr_jax import finetune, inputs, optim, training, views
from vl_ltr_jax.data import loader, sampler
from vl_ltr_jax.run import Run
from vl_ltr_jax.settings import Classifier, Finetune, Training

MakeLoss = Callable[[int], finetune.Loss]


def plan_of(run: Run, options: Training) -> training.Plan:
    """How long a stage is, an epoch being what its sampler says."""
    labels = run.inputs.data.train.labels
    return training.Plan.of(options, sampler.draws_per_epoch(labels, options.sampling))


def batches_of(
    run: Run, options: Training, *, with_text: bool
) -> Callable[[int], loader.Batches]:
    """From a first step to this process's training batches of a stage."""
    return lambda first_step: inputs.train_batches(
        run.inputs,
        run.config,
        sampling=options.sampling,
        global_batch_size=options.global_batch_size,
        start_step=first_step,
        with_text=with_text,
        num_devices=run.mesh.size,
    )


def train(
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
) -> dict[str, Any]:
    """Trains a head, and the image tower where it is among the parameters.

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

    Returns:
      The summary of :func:`training.train`.
    """
    plan = plan_of(run, options)
    optimizer = optim.make_optimizer(
        params,
        schedule=plan.schedule,
        weight_decay=options.weight_decay,
        text_schedule=plan.text_schedule,
        trainable=trainable,
    )
    step = finetune.make_step(
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
    still = {name: p for name, p in towers["params"].items() if name not in params}
    del still["text"]  # the anchors are made
    frozen = {"towers": run.place({**towers, "params": still}), "anchors": anchored}
    batches = batches_of(run, options, with_text=False)
    if options.feature_views:  # the tower has run when training starts
        batches = views.batches_of(run, stage, options, frozen.pop("towers"))
    return training.train(
        plan,
        step,
        frozen,
        {"params": params},
        optimizer,
        batches,
        directory=run.artifact(stage).directory,
        mesh=run.mesh,
        config=run.config,
    )
