"""Evaluation of every head on a split, as masked sums over all of its images."""

import csv
import functools
import io
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from vl_ltr_jax.config.settings import Evaluate
from vl_ltr_jax.evaluate import accuracy
from vl_ltr_jax.evaluate import scores as evaluate_scores
from vl_ltr_jax.method import shots
from vl_ltr_jax.models import encode
from vl_ltr_jax.models.clip import Clip
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.runtime.errors import UserError
from vl_ltr_jax.train.finetune import head_logits

Scores = dict[str, Float[Array, "B C"]]
# From arrays of its own, normalised pixels and the features behind the head to scores.
Scorer = Callable[[Any, Float[Array, "B H W 3"], Float[Array, "B D"]], Scores]
# From `frozen` and the scores of all heads to the probabilities of one of them.
Probabilities = Callable[[dict[str, Any], Scores], Float[Array, "B C"]]


class Scored(NamedTuple):
    """Scores of each head, and the features behind the recognition head."""

    heads: Scores
    features: Float[Array, "B D"]


class Counted(NamedTuple):
    """Hits of each head in a batch, and what is known of each of its images."""

    sums: dict[str, accuracy.AccuracySums]
    images: dict[str, Array]


Count = Callable[[dict[str, Any], dict[str, Array]], Counted]


class NonFiniteScoreError(UserError):
    """A head whose scores are not numbers."""


def make_scores(
    model: Clip,
    head: nn.Module | None,
    prepare: Callable[[Array], Array],
    options: Evaluate,
    num_classes: int,
    mesh: jax.sharding.Mesh,
    *,
    scorer: Scorer | None = None,
) -> Callable[[dict[str, Any], Array], Scored]:
    """Builds the function that scores images against the classes, head by head.

    Args:
      model: both towers.
      head: the trained recognition head, if there is one.
      prepare: normalises uint8 images.
      options: the evaluation section of the configuration.
      num_classes: C.
      mesh: the devices; images are split over `data`, texts over `model`.
      scorer: what a method adds, given `frozen["own"]`.

    Returns:
      A pure function of `frozen` and images uint8 [B, H, W, 3]. `frozen` holds `towers`
      (pre-trained variables), `anchors`, and as needed `tuned` (the variables behind
      the head, where its training changed them), `head` (its parameters),
      `class_texts` [C, D], `sentences` [S, D] and `sentence_labels` [S], negative for
      padding; classes past C are padding too.
    """

    def scores(frozen: dict[str, Any], images: Array) -> Scored:
        pixels = prepare(images)
        result: Scores = {}
        # Without knn and zero_shot the compiler drops what nobody reads.
        features = encode.image(model, frozen["towers"], pixels)
        features = meshes.split_rows(mesh, features, "data")
        tuned = features
        if "tuned" in frozen:
            tuned = encode.image(model, frozen["tuned"], pixels)
        if scorer is not None:
            tuned = meshes.split_rows(mesh, tuned, "data")
            result |= scorer(frozen["own"], pixels, tuned)
        if head is not None:
            logits = head_logits(head, frozen["head"], tuned, frozen["anchors"], mesh)
            if "language" not in logits:
                result["fc"] = logits["visual"]
            elif options.prediction == "mixture":
                result["lgr"] = accuracy.mixture(
                    logits["visual"], logits["language"], options.visual_weight
                )
            else:
                result["lgr"] = accuracy.sum_of_logits(
                    logits["visual"], logits["language"]
                )
        if options.knn:
            cosines, nearest = nearest_sentences(
                features,
                frozen["sentences"],
                frozen["sentence_labels"],
                options.knn_neighbours,
                mesh,
            )
            result["knn"] = evaluate_scores.knn_votes(cosines, nearest, num_classes)
        if options.zero_shot:
            cosines = evaluate_scores.zero_shot_scores(features, frozen["class_texts"])
            result["zero_shot"] = cosines[:, :num_classes]
        return Scored(result, tuned)

    return scores


def nearest_sentences(
    image_emb: Float[Array, "B D"],
    sentence_emb: Float[Array, "S D"],
    sentence_labels: Int[Array, " S"],
    k: int,
    mesh: jax.sharding.Mesh,
) -> tuple[Float[Array, "B k"], Int[Array, "B k"]]:
    """:func:`scores.nearest_sentences` with sentences split over `model`.

    Each device finds the k nearest of its own sentences, and the k nearest of these are
    taken; of equal cosines the earlier sentence stays the first.
    """
    local = jax.shard_map(
        functools.partial(evaluate_scores.nearest_sentences, k=k),
        mesh=mesh,
        in_specs=(
            PartitionSpec("data"),
            PartitionSpec("model"),
            PartitionSpec("model"),
        ),
        out_specs=PartitionSpec("data", "model"),
        check_vma=False,  # a loop starts with constants, the same on every device
    )
    cosines, labels = local(image_emb, sentence_emb, sentence_labels)
    cosines, places = jax.lax.top_k(cosines, min(k, cosines.shape[1]))
    return cosines, jnp.take_along_axis(labels, places, axis=1)


def make_count(
    scores: Callable[[dict[str, Any], Array], Scored],
    num_classes: int,
    probabilities: Probabilities | None = None,
) -> Count:
    """Compiles scores into hits: `(frozen, batch) -> Counted`.

    Args:
      scores: from :func:`make_scores`.
      num_classes: C.
      probabilities: of the head whose predictions are kept, if any are.

    Returns:
      A function whose `images` are the batch's `labels`, the `features`, and the fields
      of :class:`accuracy.Ranking` where there are probabilities.
    """

    @jax.jit
    def count(frozen: dict[str, Any], batch: dict[str, Array]) -> Counted:
        labels = batch["label"]
        heads, features = scores(frozen, batch["image"])
        images = {"labels": labels, "features": features.astype(jnp.float32)}
        if probabilities is not None:
            ranking = accuracy.rank(probabilities(frozen, heads), labels)
            images |= ranking._asdict()
        sums = {
            name: accuracy.update(
                accuracy.AccuracySums.zeros(num_classes), values, labels, batch["mask"]
            )
            for name, values in heads.items()
        }
        return Counted(sums, images)

    return count


def evaluate_split(
    count: Count,
    frozen: dict[str, Any],
    batches: Iterable[dict[str, np.ndarray]],
    mesh: jax.sharding.Mesh,
    keep: Sequence[str] = (),
) -> tuple[dict[str, accuracy.AccuracySums], dict[str, np.ndarray]]:
    """Sums hits over a split for every head.

    Args:
      count: from :func:`make_count`.
      frozen: its first argument, on the devices.
      batches: host-local padded batches with `image`, `label` and `mask`.
      mesh: the devices.
      keep: which of `Counted.images` are wanted.

    Returns:
      Per-class sums for each head, and the arrays of `keep`, a row for each image in
      the order of the split; on every host.

    Raises:
      NonFiniteScoreError: if a head gives NaN.
    """
    total: dict[str, accuracy.AccuracySums] | None = None
    kept: dict[str, list[np.ndarray]] = {name: [] for name in keep}
    waiting: list[tuple[Array, dict[str, Array]]] = []

    def fetch() -> None:
        mask, images = waiting.pop()
        real = meshes.to_host(mask).astype(bool)
        for name, parts in kept.items():
            parts.append(meshes.to_host(images[name])[real])

    for batch in batches:
        placed = meshes.to_global(mesh, batch)
        sums, images = count(frozen, placed)
        total = sums if total is None else jax.tree.map(operator.add, total, sums)
        if waiting:
            fetch()  # while the devices are at the next batch
        if keep:
            waiting.append((placed["mask"], images))
    if waiting:
        fetch()
    sums = jax.tree.map(meshes.to_host, total)
    for head, counts in sums.items():
        if invalid := int(counts.invalid.sum()):
            raise NonFiniteScoreError(
                f"{invalid} of {int(counts.total.sum())} images have scores from the "
                f"head {head!r} that are not numbers: its training has diverged. Lower "
                "the learning rate, in a new --workdir"
            )
    return sums, {name: np.concatenate(parts) for name, parts in kept.items()}


def summarise(
    sums: accuracy.AccuracySums,
    train_counts: Int[np.ndarray, "C"],
    prediction: str,
) -> dict[str, Any]:
    """Percentages of one head on one split.

    Args:
      sums: per-class sums on the host.
      train_counts: training images of each class.
      prediction: name of the rule that made the scores.

    Returns:
      `top1` and `top5` over images, `class_mean` (top-1 of each class, averaged),
      `prediction`, and `shots` under both rules; None where a group has no image.
    """
    top1, top5, total_per_class, _ = map(np.asarray, sums)
    return {
        "top1": shots.image_mean(top1, total_per_class),
        "top5": shots.image_mean(top5, total_per_class),
        "class_mean": shots.class_mean(top1, total_per_class),
        "prediction": prediction,
        "shots": {
            rule: shots.shot_accuracies(top1, total_per_class, train_counts, rule)
            for rule in shots.SHOT_RULES
        },
    }


def per_class_csv(
    sums: dict[str, accuracy.AccuracySums],
    class_names: tuple[str, ...],
    train_counts: Int[np.ndarray, "C"],
) -> str:
    """Hits of every head on every class, as CSV with a header."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("head", "class", "name", "train_images", "images", "top1", "top5"))
    for head, head_sums in sums.items():
        columns = zip(
            class_names,
            train_counts,
            head_sums.total,
            head_sums.top1_correct,
            head_sums.top5_correct,
            strict=True,
        )
        for index, (name, *counts) in enumerate(columns):
            writer.writerow((head, index, name, *map(int, counts)))
    return file.getvalue()
