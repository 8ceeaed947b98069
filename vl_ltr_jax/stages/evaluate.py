"""The stage that evaluates every head, and stores the predictions of the run's head."""

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

PREDICTIONS = Ranking._fields  # arrays `SPLIT_NAME.npy`


def evaluate_heads(run: Run) -> dict[str, Any]:
    """Returns accuracies of every head on the validation and the test images.

    Writes the predictions of the run's own head (`predicted_by` in the summary), and
    features of the validation images, which calibrate classes that are added later.
    """
    inputs, section = run.inputs, _section(run)
    count, frozen = counting(run, section)
    summary: dict[str, Any] = {}
    for name in ("val", "test"):
        split = getattr(inputs.data, name)
        names = (*PREDICTIONS, "features") if name == "val" else PREDICTIONS
        sums, images = evaluate.evaluate_split(
            count, frozen, run.eval_batches(split, f"evaluate: {name}"), run.mesh, names
        )
        summary["predicted_by"] = own_head(run.config, sums)
        summary[name] = {
            head_name: evaluate.summarise(
                head_sums,
                inputs.data.train_counts,
                section.prediction if head_name == "lgr" else "argmax",
            )
            for head_name, head_sums in sums.items()
        }
        if jax.process_index() == 0:
            artifact = run.artifact("evaluate")
            text = evaluate.per_class_csv(
                sums, inputs.data.class_names, inputs.data.train_counts
            )
            write_whole(artifact.directory / f"per_class_{name}.csv", text)
            artifact.save_arrays(
                **{f"{name}_{key}": rows for key, rows in images.items()}
            )
    return summary


def counting(run: Run, section: Evaluate) -> tuple[evaluate.Count, evaluate.Frozen]:
    """Returns the program that counts hits of every head, and its arrays."""
    frozen, head, scorer = _frozen(run, section)
    num_classes = run.inputs.num_classes
    scores = evaluate.make_scores(
        run.model,
        head,
        run.normalize,
        section,
        num_classes,
        run.mesh,
        scorer=scorer,
    )
    count = evaluate.make_count(scores, num_classes, _probabilities(run.config))
    return count, frozen


def _section(run: Run) -> Evaluate:
    section = run.config.evaluate
    if run.inputs.released_head is None:
        return section
    console.say("an LGR checkpoint has no text tower: no kNN, no zero-shot")
    return dataclasses.replace(section, knn=False, zero_shot=False)


def _frozen(
    run: Run, section: Evaluate
) -> tuple[evaluate.Frozen, nn.Module | None, evaluate.Scorer | None]:
    """Returns the arrays on the devices, the recognition head and a system's scorer."""
    inputs, towers = run.inputs, run.towers()
    recipe = systems.recipe_of(run.config)
    texts: dict[str, np.ndarray] = {}
    if section.knn or section.zero_shot:
        sentences = run.sentence_embeddings()
    if section.knn:
        texts |= {"sentences": sentences, "sentence_labels": inputs.corpus.labels}
    if section.zero_shot:
        texts["class_texts"] = run.class_texts(sentences)
        if run.writes and jax.process_index() == 0:
            run.artifact("evaluate").save_arrays(class_texts=texts["class_texts"])
    frozen, anchors = evaluate.Frozen(towers), None
    head: nn.Module | None = None
    if inputs.released_head is not None:
        head, anchors = run.head(towers), run.anchors()
        frozen = frozen._replace(head=inputs.released_head.params)
    elif run.config.finetune.epochs:
        head, anchors = recipe.head(run, towers), run.anchors()
        if head is not None:
            tuned = run.finetuned()
            frozen = frozen._replace(head=tuned["head"])
            if "visual" in tuned:
                frozen = frozen._replace(tuned=with_tuned_tower(towers, tuned))
    scorer = None
    if own := recipe.scorer(run):
        arrays, scorer = own
        frozen = frozen._replace(own=arrays)
    placed = {
        name: meshes.shard_rows(
            run.mesh, array, "model", fill=-1 if name == "sentence_labels" else 0
        )
        for name, array in texts.items()
    }
    return run.place(frozen)._replace(anchors=anchors, **placed), head, scorer


def _probabilities(config: Config) -> evaluate.Probabilities:
    """Builds the function from scores to class probabilities of the run's own head."""
    scale = systems.recipe_of(config).score_scale(config)

    def probabilities(
        frozen: evaluate.Frozen, heads: evaluate.Scores
    ) -> Float[Array, "B C"]:
        own = own_head(config, heads)
        scores = heads[own]
        if own == "lgr" and config.evaluate.prediction == "mixture":
            return scores
        if own == "knn":
            return scores / jnp.sum(scores, axis=1, keepdims=True)
        if own == "zero_shot":
            logit_scale = frozen.towers["params"]["logit_scale"]
            return jax.nn.softmax(jnp.exp(logit_scale) * scores)
        return jax.nn.softmax(scale * scores)

    return probabilities
