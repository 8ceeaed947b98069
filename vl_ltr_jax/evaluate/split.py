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
from vl_ltr_jax.train.finetune import PlacedAnchors, head_logits

Scores = dict[str, Float[Array, "B C"]]
# From arrays of its own, normalised pixels and features of the head's tower to scores.
Scorer = Callable[[Any, Float[Array, "B H W 3"], Float[Array, "B D"]], Scores]


class Frozen(NamedTuple):
    """Arrays of all heads, on the devices; None for a head that is not evaluated.

    Attributes:
      towers: pre-trained variables.
      tuned: variables of a tower that was trained with the head.
      head: parameters of the recognition head.
      anchors: of a head with language.
      own: arrays of the system's scorer.
      class_texts: of zero-shot recognition; classes past C are padding.
      sentences: of kNN.
      sentence_labels: negative for padding.
    """

    towers: dict[str, Any]
    tuned: dict[str, Any] | None = None
    head: dict[str, Any] | None = None
    anchors: PlacedAnchors | None = None
    own: Any = None
    class_texts: Float[Array, "C D"] | None = None
    sentences: Float[Array, "S D"] | None = None
    sentence_labels: Int[Array, " S"] | None = None


# From `Frozen` and the scores of all heads to the probabilities of one head.
Probabilities = Callable[[Frozen, Scores], Float[Array, "B C"]]


class Scored(NamedTuple):
    """Scores by head, and the features of the recognition head's tower."""

    heads: Scores
    features: Float[Array, "B D"]


class Counted(NamedTuple):
    """Hits of each head in a batch, and arrays with a row for each image."""

    sums: dict[str, accuracy.AccuracySums]
    images: dict[str, Array]


Count = Callable[[Frozen, dict[str, Array]], Counted]


class NonFiniteScoreError(UserError):
    """A head whose scores are not numbers."""


def make_scores(
    model: Clip,
    head: nn.Module | None,
    prepare: Callable[[Array], Array],
    section: Evaluate,
    num_classes: int,
    mesh: jax.sharding.Mesh,
    *,
    scorer: Scorer | None = None,
) -> Callable[[Frozen, Array], Scored]:
    """Builds the pure function from :class:`Frozen` and uint8 images to scores.

    Images are split over `data`, texts over `model`. `prepare` normalises uint8 images;
    `scorer` is that of `Frozen.own`.
    """

    def scores(frozen: Frozen, images: Array) -> Scored:
        pixels = prepare(images)
        result: Scores = {}
        # Without knn and zero_shot the compiler drops unused features.
        features = encode.image(model, frozen.towers, pixels)
        features = meshes.split_rows(mesh, features, "data")
        tuned = features
        if frozen.tuned is not None:
            tuned = encode.image(model, frozen.tuned, pixels)
        if scorer is not None:
            tuned = meshes.split_rows(mesh, tuned, "data")
            result |= scorer(frozen.own, pixels, tuned)
        if head is not None and frozen.head is not None:
            logits = head_logits(head, frozen.head, tuned, frozen.anchors, mesh)
            if "language" not in logits:
                result["fc"] = logits["visual"]
            elif section.prediction == "mixture":
                result["lgr"] = accuracy.mixture(
                    logits["visual"], logits["language"], section.visual_weight
                )
            else:
                result["lgr"] = accuracy.sum_of_logits(
                    logits["visual"], logits["language"]
                )
        if frozen.sentences is not None and frozen.sentence_labels is not None:
            cosines, nearest = nearest_sentences(
                features,
                frozen.sentences,
                frozen.sentence_labels,
                section.knn_neighbours,
                mesh,
            )
            result["knn"] = evaluate_scores.knn_votes(cosines, nearest, num_classes)
        if frozen.class_texts is not None:
            cosines = evaluate_scores.zero_shot_scores(features, frozen.class_texts)
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
    """Finds neighbours as :func:`scores.nearest_sentences`, split over `model`.

    Each device finds the k nearest of its own sentences; the k nearest of these remain.
    Of equal cosines the earlier sentence stays first.
    """
    local = jax.shard_map(
        functools.partial(evaluate_scores.nearest_sentences, k=k),
        mesh=mesh,
        in_specs=tuple(map(PartitionSpec, ("data", "model", "model"))),
        out_specs=PartitionSpec("data", "model"),
        check_vma=False,  # the loop starts with constants, equal on every device
    )
    cosines, labels = local(image_emb, sentence_emb, sentence_labels)
    cosines, places = jax.lax.top_k(cosines, min(k, cosines.shape[1]))
    return cosines, jnp.take_along_axis(labels, places, axis=1)


def make_count(
    scores: Callable[[Frozen, Array], Scored],
    num_classes: int,
    probabilities: Probabilities | None = None,
) -> Count:
    """Compiles scores into hits: `(frozen, batch) -> Counted`.

    `Counted.images` has `labels`, `features` and, with probabilities of a head, the
    fields of :class:`accuracy.Ranking`.
    """

    @jax.jit
    def count(frozen: Frozen, batch: dict[str, Array]) -> Counted:
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
    frozen: Frozen,
    batches: Iterable[dict[str, np.ndarray]],
    mesh: jax.sharding.Mesh,
    names: Sequence[str] = (),
) -> tuple[dict[str, accuracy.AccuracySums], dict[str, np.ndarray]]:
    """Sums hits over a split for every head.

    Args:
      count: from :func:`make_count`.
      frozen: its first argument.
      batches: host-local padded batches with `image`, `label` and `mask`.
      mesh: devices.
      names: arrays of `Counted.images` to return.

    Returns:
      Per-class sums for each head, and the named arrays with a row for each image in
      the order of the split; on every host.

    Raises:
      NonFiniteScoreError: a head gives NaN.
    """
    total: dict[str, accuracy.AccuracySums] | None = None
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    waiting: list[tuple[Array, dict[str, Array]]] = []

    def fetch() -> None:
        mask, images = waiting.pop()
        real = meshes.to_host(mask).astype(bool)
        for name in names:
            parts[name].append(meshes.to_host(images[name])[real])

    for batch in batches:
        placed = meshes.to_global(mesh, batch)
        sums, images = count(frozen, placed)
        total = sums if total is None else jax.tree.map(operator.add, total, sums)
        if waiting:
            fetch()  # while the devices are at the next batch
        if names:
            waiting.append((placed["mask"], images))
    if waiting:
        fetch()
    sums = jax.tree.map(meshes.to_host, total)
    for head, counts in sums.items():
        if invalid := int(counts.invalid.sum()):
            raise NonFiniteScoreError(
                f"head {head!r}: {invalid} of {int(counts.total.sum())} images have "
                "scores that are not numbers; its training has diverged. Lower the "
                "learning rate, in a new --workdir."
            )
    return sums, {name: np.concatenate(arrays) for name, arrays in parts.items()}


def summarise(
    sums: accuracy.AccuracySums,
    train_counts: Int[np.ndarray, "C"],
    prediction: str,
) -> dict[str, Any]:
    """Returns the percentages of one head on one split.

    They are `top1` and `top5` over images, `class_mean` (top-1 of each class,
    averaged), and `shots` under both rules. A group without images has None.
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
    """Formats the hits of every head on every class, as CSV with a header."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("head", "class", "name", "train_images", "images", "top1", "top5"))
    for head, (top1, top5, total, _) in sums.items():
        columns = zip(class_names, train_counts, total, top1, top5, strict=True)
        for index, (name, *counts) in enumerate(columns):
            writer.writerow((head, index, name, *map(int, counts)))
    return file.getvalue()
