"""Training stages of a run: plan, batches and job of a recognition head.

The head trains on images, or on cached features.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn

from vl_ltr_jax.config.settings import Classifier, Finetune, Training
from vl_ltr_jax.data.batches import loader
from vl_ltr_jax.run import feature_views, layout
from vl_ltr_jax.run import inputs as run_inputs
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.train import finetune, optim, row_probe
from vl_ltr_jax.train import stage as training
from vl_ltr_jax.train.finetune import Frozen, PlacedAnchors
from vl_ltr_jax.train.state import BatchShapes, Step

MakeLoss = Callable[[int], finetune.Loss]


@dataclasses.dataclass(frozen=True)
class TrainingStage:
    """A stage that trains; replay repeats its steps.

    Attributes:
      build: builds the training.
      finish: from the run and the summary of its training to that of the stage.
    """

    build: Callable[[Run], training.Job]
    finish: Callable[[Run, dict[str, Any]], dict[str, Any]] = lambda run, summary: (
        summary
    )

    def __call__(self, run: Run) -> dict[str, Any]:
        """Trains to the end, and returns the summary."""
        if run.chooses_chunks:
            job = layout.choose(lambda n: self.build(run.with_chunks(n)), run)
        else:
            job = self.build(run)
            layout.record(job.directory, run.chunks)
        return self.finish(run, training.train(job, run.mesh, run.config))

    def job(self, run: Run) -> training.Job:
        """Returns the training as a stage that has begun would go on with it."""
        job = self.build(run)
        if not run.chooses_chunks:
            return job
        return self.build(run.with_chunks(layout.recorded(job.directory) or 1))


def plan_of(run: Run, section: Training) -> training.Plan:
    """Returns the length of a stage; an epoch is the size of the training set."""
    return training.Plan.from_section(section, len(run.inputs.data.train))


def batches_of(
    run: Run, section: Training, *, with_text: bool
) -> Callable[[int], loader.Batches]:
    """Returns a function from a first step to this process's training batches."""
    sentences = _sentences(run) if with_text else None
    feed = run_inputs.feed(run.config, section.global_batch_size)
    return lambda first_step: feed.train(
        run.inputs.data.train,
        run_inputs.train_transform(run.config),
        sampling=section.sampling,
        sentences=sentences,
        start_step=first_step,
    )


def _sentences(run: Run) -> loader.Sentences:
    return loader.Sentences(
        run.inputs.corpus.labels,
        run.inputs.tokens,
        run.mesh.size,
        run.chunks,
    )


def batch_shapes(
    run: Run, section: Training, *, with_text: bool = False, features: bool = False
) -> list[BatchShapes]:
    """Returns shapes of the global batches of a stage, the usual one first."""
    size, side = section.global_batch_size, run.config.model.image_size

    def rows(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
        return meshes.described_rows(run.mesh, shape, dtype)

    batch = {"label": rows(np.int32, size)}
    if features:
        width = run.inputs.clip_config.embed_dim
        return [{**batch, "features": rows(np.float32, size, width)}]
    batch["image"] = rows(np.uint8, size, side, side, 3)
    if not with_text:
        return [batch]
    feed = run_inputs.feed(run.config, size)
    batch["sentence_id"] = rows(np.int32, size)
    labels = run.inputs.data.train.labels
    return [
        {**batch, **{name: rows(np.int32, *shape) for name, shape in texts.items()}}
        for texts in feed.text_shapes(labels, section.sampling, _sentences(run))
    ]


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
        lambda: batch_shapes(run, section, features=bool(section.feature_views)),
    )
