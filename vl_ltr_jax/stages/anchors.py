"""The stage that chooses the anchor sentences of each class (AnSS).

A class without images in the chosen split cannot rank its sentences: it takes its first
M, prompts first. A class with fewer than M sentences takes all.
"""

import json
from typing import Any

import jax
import numpy as np

from vl_ltr_jax.logs import console
from vl_ltr_jax.method import anss
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.storage.artifact import write_whole

# Keys of the summary that the report shows: a number, and lists of class names.
REPORTED_KEYS = ("num_anchors", "without_images", "with_fewer_sentences")
# Sentences that a device scores between two updates of the progress bar.
SENTENCES_PER_CALL = 8 * anss.BLOCKS[0]


def select(run: Run) -> dict[str, Any]:
    """Writes scores, and for each class the indices and texts of its M anchors."""
    section, corpus = run.config.anchors, run.inputs.corpus
    embedded = run.artifact("embed")
    image_labels = embedded.load_array("image_labels")
    scores = score(run, embedded.load_array("images"), image_labels)
    num_anchors = min(section.num_anchors, int(corpus.counts.max()))
    indices, padding = anss.select_anchors(
        scores,
        corpus.labels,
        run.inputs.num_classes,
        num_anchors,
        selection=section.selection,
        seed=run.config.seed,
    )
    texts = [
        [corpus.sentences[i] for i in row[~absent]]
        for row, absent in zip(indices, padding, strict=True)
    ]
    if jax.process_index() == 0:
        run.artifact("anchors").save_arrays(
            scores=scores, indices=indices, padding=padding
        )
        write_whole(
            run.artifact("anchors").directory / "sentences.json",
            json.dumps(texts, ensure_ascii=False),
        )
    counts = corpus.counts
    images = np.bincount(image_labels, minlength=len(counts))

    def names(chosen: np.ndarray) -> list[str]:
        return [run.inputs.data.class_names[c] for c in np.flatnonzero(chosen)]

    by_images = section.selection == "anss"
    return {
        "anchors": int((~padding).sum()),
        "sentences": len(corpus.sentences),
        "num_anchors": section.num_anchors,
        "without_images": names((images == 0) & by_images),
        "with_fewer_sentences": names(counts < section.num_anchors),
    }


def score(run: Run, images: np.ndarray, image_labels: np.ndarray) -> np.ndarray:
    """Scores all sentences, with images split over `data`, sentences over `model`."""
    labels = run.inputs.corpus.labels
    sentences = run.sentence_embeddings()

    def split(
        embeddings: np.ndarray, classes: np.ndarray, axis: str
    ) -> tuple[jax.Array, jax.Array]:
        return (
            meshes.shard_rows(run.mesh, embeddings, axis),
            meshes.shard_rows(run.mesh, classes, axis, fill=-1),
        )

    pictures = split(images, image_labels, "data")
    scale = run.towers()["params"]["logit_scale"]
    size = min(SENTENCES_PER_CALL * run.mesh.shape["model"], len(labels))
    scores: list[np.ndarray] = []
    starts = range(0, len(labels), size)
    for start in console.progress(
        starts, "anchors", len(labels), "sentences", each=size
    ):
        rows = slice(start, start + size)
        added = size - len(labels[rows])  # one shape, one compiled program
        texts = split(
            np.pad(sentences[rows], [(0, added), (0, 0)]),
            np.pad(labels[rows], (0, added), constant_values=-1),
            "model",
        )
        scored = anss.score_sentences(
            *texts,
            *pictures,
            scale,
            num_classes=run.inputs.num_classes,
            mesh=run.mesh,
        )
        scores.append(meshes.to_host(scored)[:size])
    return np.concatenate(scores)[: len(labels)]
