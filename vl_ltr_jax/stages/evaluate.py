"""The stage that evaluates every head, and keeps what the run's own head says."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from vl_ltr_jax import systems
from vl_ltr_jax.config.settings import Config, Evaluate
from vl_ltr_jax.evaluate import split as evaluate
from vl_ltr_jax.evaluate.accuracy import Ranking
from vl_ltr_jax.logs import console
from vl_ltr_jax.run.run import Run, with_tuned_tower
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.storage.artifact import write_whole
from vl_ltr_jax.systems.titles import own_head

KEPT = Ranking._fields  # written as `SPLIT_NAME.npy`


def evaluate_heads(run: Run) -> dict[str, Any]:
    """Accuracies of every head on the validation and the test images.

    Of the run's own head (`predicted_by` in the summary) the five likeliest classes of
    each image are written, and the features of the validation images: by them a class
    that is added later is held against the old ones.
    """
    inputs = run.inputs
    options = _options(run)
    frozen, head, scorer = _frozen(run, options)
    scores = evaluate.make_scores(
        run.model,
        head,
        run.normalize,
        options,
        inputs.num_classes,
        run.mesh,
        scorer=scorer,
    )
    count = evaluate.make_count(scores, inputs.num_classes, _probabilities(run.config))
    summary: dict[str, Any] = {}
    for name in ("val", "test"):
        split = getattr(inputs.data, name)
        keep = (*KEPT, "features") if name == "val" else KEPT
        sums, images = evaluate.evaluate_split(
            count, frozen, run.eval_batches(split, f"evaluate: {name}"), run.mesh, keep
        )
        summary["predicted_by"] = own_head(run.config, sums)
        summary[name] = {
            head_name: evaluate.summarise(
                head_sums,
                inputs.data.train_counts,
                options.prediction if head_name == "lgr" else "argmax",
            )
            for head_name, head_sums in sums.items()
        }
        if jax.process_index() == 0:
            left = run.artifact("evaluate")
            text = evaluate.per_class_csv(
                sums, inputs.data.class_names, inputs.data.train_counts
            )
            write_whole(left.directory / f"per_class_{name}.csv", text)
            left.save_arrays(**{f"{name}_{key}": rows for key, rows in images.items()})
    return summary


def _options(run: Run) -> Evaluate:
    options = run.config.evaluate
    if run.inputs.released_head is None:
        return options
    console.say("an LGR checkpoint has no text tower: no kNN, no zero-shot")
    return dataclasses.replace(options, knn=False, zero_shot=False)


def _frozen(
    run: Run, options: Evaluate
) -> tuple[dict[str, Any], nn.Module | None, evaluate.Scorer | None]:
    """What the scores are made of: arrays on the devices, the head, a scorer."""
    inputs, towers = run.inputs, run.towers()
    recipe = systems.recipe_of(run.config)
    frozen: dict[str, Any] = {"towers": towers}
    texts: dict[str, np.ndarray] = {}
    if options.knn or options.zero_shot:
        sentences = run.artifact("embed").load_array("sentences")
    if options.knn:
        texts |= {"sentences": sentences, "sentence_labels": inputs.corpus.labels + 1}
    if options.zero_shot:
        texts["class_texts"] = run.class_texts(sentences)
        if jax.process_index() == 0:
            run.artifact("evaluate").save_arrays(class_texts=texts["class_texts"])
    head: nn.Module | None = None
    anchored, own = {}, None
    if inputs.released_head is not None:
        head, anchored = run.head(towers), run.anchors()
        frozen["head"] = inputs.released_head.params
    elif run.config.finetune.epochs:
        head, anchored = recipe.head(run, towers), run.anchors()
        if head is not None:
            tuned = run.finetuned()
            frozen["head"] = tuned["head"]
            if "visual" in tuned:
                frozen["tuned"] = with_tuned_tower(towers, tuned)
    if given := recipe.scorer(run):
        frozen["own"], own = given
    placed = {
        name: meshes.shard_rows(run.mesh, array, "model")
        for name, array in texts.items()
    }
    if "sentence_labels" in placed:
        placed["sentence_labels"] -= 1  # rows that fill the shards: no class
    return {**run.place(frozen), **placed, "anchors": anchored}, head, own


def _probabilities(config: Config) -> evaluate.Probabilities:
    """What the scores of the run's own head say of each class."""
    scale = systems.recipe_of(config).score_scale(config)

    def probabilities(
        frozen: dict[str, Any], heads: evaluate.Scores
    ) -> Float[Array, "B C"]:
        own = own_head(config, heads)
        scores = heads[own]
        if own == "lgr" and config.evaluate.prediction == "mixture":
            return scores
        if own == "knn":
            return scores / jnp.sum(scores, axis=1, keepdims=True)
        if own == "zero_shot":
            logit_scale = frozen["towers"]["params"]["logit_scale"]
            return jax.nn.softmax(jnp.exp(logit_scale) * scores)
        return jax.nn.softmax(scale * scores)

    return probabilities
