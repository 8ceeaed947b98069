"""The stage that embeds sentences and images with the frozen towers."""

import functools
from typing import Any

import jax

from vl_ltr_jax.method import anss
from vl_ltr_jax.run import embedding
from vl_ltr_jax.run.run import Run


def run_embed(run: Run) -> dict[str, Any]:
    """Embeds every sentence, and the images that anchors are chosen by."""
    towers = run.replicate(run.towers())
    data, section = run.inputs.data, run.config.anchors
    split = data.train if section.images == "train" else data.val
    indices = anss.cap_images_per_class(split.labels, section.max_images_per_class)
    encode = jax.jit(run.encode_image)
    images, labels = embedding.embed_images(
        functools.partial(encode, towers),
        run.eval_batches(split.select(indices), "embed"),
        run.mesh,
    )
    sentences = run.embed_sentences(towers, "embed")
    if jax.process_index() == 0:
        run.artifact("embed").save_arrays(
            sentences=sentences, images=images, image_labels=labels
        )
    return {"sentences": len(sentences), "images": len(images)}
