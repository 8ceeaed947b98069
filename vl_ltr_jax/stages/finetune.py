"""The fine-tuning stage."""

import functools

import jax
import numpy as np

from vl_ltr_jax import systems
from vl_ltr_jax.method import mixup
from vl_ltr_jax.run import head_training
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.train import stage as training


def finetuning(run: Run) -> training.Job:
    """The recognition head, and the image tower where the configuration trains it."""
    config, options, inputs = run.config, run.config.finetune, run.inputs
    recipe = systems.recipe_of(config)
    towers, anchored = run.towers(), run.anchors()
    head = recipe.head(run, towers)
    if head is None:
        raise ValueError(f"{recipe.title} has no head, and no fine-tuning of its own")
    features = np.zeros((1, inputs.clip_config.embed_dim), np.float32)
    example = (anchored["embeddings"], anchored["padding"]) if anchored else ()
    params = {
        "head": jax.tree.map(
            np.asarray,
            jax.jit(head.init)(jax.random.key(config.seed), features, *example),
        )["params"]
    }
    if options.train_image_tower:
        params["visual"] = towers["params"]["visual"]
    mix = functools.partial(
        mixup.mix,
        num_classes=inputs.num_classes,
        mixup_alpha=options.mixup_alpha,
        cutmix_alpha=options.cutmix_alpha,
        label_smoothing=options.label_smoothing,
    )
    return head_training.job(
        run,
        "finetune",
        options,
        head=head,
        params=params,
        towers=towers,
        anchored=anchored,
        mix=mix,
        make_loss=functools.partial(recipe.make_loss, config, inputs.data.train_counts),
    )
