"""The fine-tuning stage."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import Array

from vl_ltr_jax import systems
from vl_ltr_jax.method import mixup
from vl_ltr_jax.run import head_training
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.train import stage as training
from vl_ltr_jax.train.finetune import PlacedAnchors


def initializer(
    run: Run, head: nn.Module, anchors: PlacedAnchors | None
) -> Callable[[Array], Any]:
    """Returns a function from a key to the parameters of a head."""
    width = run.inputs.clip_config.embed_dim
    shapes = [jax.ShapeDtypeStruct((1, width), np.float32)]
    if anchors is not None:
        shapes += [
            jax.ShapeDtypeStruct(array.shape, array.dtype)
            for array in (anchors.embeddings, anchors.padding)
        ]
    return lambda key: head.lazy_init(key, *shapes)["params"]


def finetuning(run: Run) -> training.Job:
    """Builds the training of the recognition head, and of a trained image tower."""
    config, section, inputs = run.config, run.config.finetune, run.inputs
    recipe = systems.recipe_of(config)
    towers, anchors = run.towers(), run.anchors()
    head = recipe.head(run, towers)
    if head is None:
        raise ValueError(f"method={config.method}: its system has no head to fine-tune")
    initial = jax.jit(initializer(run, head, anchors))(jax.random.key(config.seed))
    params = {"head": jax.tree.map(np.asarray, initial)}
    if section.train_image_tower:
        params["visual"] = towers["params"]["visual"]
    return head_training.job(
        run,
        "finetune",
        section,
        head=head,
        params=params,
        towers=towers,
        anchors=anchors,
        mix=functools.partial(
            mixup.mix,
            num_classes=inputs.num_classes,
            mixup_alpha=section.mixup_alpha,
            cutmix_alpha=section.cutmix_alpha,
            label_smoothing=section.label_smoothing,
        ),
        make_loss=functools.partial(recipe.make_loss, config, inputs.data.train_counts),
    )
