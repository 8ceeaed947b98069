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
    """Builds the training of the recognition head, and of a trained image tower."""
    config, section, inputs = run.config, run.config.finetune, run.inputs
    recipe = systems.recipe_of(config)
    towers, anchors = run.towers(), run.anchors()
    head = recipe.head(run, towers)
    if head is None:
        raise ValueError(f"method={config.method}: its system has no head to fine-tune")
    features = np.zeros((1, inputs.clip_config.embed_dim), np.float32)
    example = (anchors.embeddings, anchors.padding) if anchors else ()
    params = {
        "head": jax.tree.map(
            np.asarray,
            jax.jit(head.init)(jax.random.key(config.seed), features, *example),
        )["params"]
    }
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
