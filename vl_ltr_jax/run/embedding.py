"""Embeddings of every image of a split, and of every sentence of the corpus.

Batches of one size run under one compiled function per length. Every host gets the
results in the order of the data.
"""

from collections.abc import Callable, Iterable

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Integer

from vl_ltr_jax.logs import console
from vl_ltr_jax.runtime import mesh as meshes

LENGTH_BUCKET = 8  # tokens; 77 tokens make ten compiled lengths


def embed_images(
    encode: Callable[[Array], Array],
    batches: Iterable[dict[str, np.ndarray]],
    mesh: jax.sharding.Mesh,
) -> tuple[Float[np.ndarray, "N D"], Int[np.ndarray, "N"]]:
    """Returns float32 features and labels of padded evaluation batches.

    `encode` is a jitted function from uint8 images [B, H, W, 3] to features [B, D].
    """
    features, labels = [], []
    for batch in batches:
        arrays = meshes.to_global(mesh, batch)
        valid = meshes.to_host(arrays["mask"]).astype(bool)
        embedded = meshes.to_host(encode(arrays["image"]))[valid]
        features.append(embedded.astype(np.float32))
        labels.append(meshes.to_host(arrays["label"])[valid])
    return np.concatenate(features), np.concatenate(labels)


def embed_sentences(
    encode: Callable[[Array], Array],
    tokens: Integer[np.ndarray, "S L"],
    mesh: jax.sharding.Mesh,
    batch_size: int,
    what: str = "embed",
) -> Float[np.ndarray, "S D"]:
    """Embeds tokenised sentences, short ones in short batches.

    The text tower is causal and pools at the end of the text, so shorter padding
    changes only the time.

    `encode` is a jitted function from tokens int32 [B, L] to features [B, D].
    """
    # Search for the end of text, the largest id: zero is a token too.
    lengths = np.argmax(tokens, axis=1) + 1
    order = np.argsort(lengths, kind="stable")
    share = batch_size // jax.process_count()
    rows = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
    result: np.ndarray | None = None
    starts = range(0, len(order), batch_size)
    for start in console.progress(
        starts, what, len(order), "sentences", each=batch_size
    ):
        chosen = order[start : start + batch_size]
        longest = int(lengths[chosen[-1]])
        length = min(-(-longest // LENGTH_BUCKET) * LENGTH_BUCKET, tokens.shape[1])
        padded = np.zeros((batch_size, length), np.int32)
        padded[: len(chosen)] = tokens[chosen, :length]
        batch = meshes.to_global(mesh, {"tokens": padded[rows]})
        embedded = meshes.to_host(encode(batch["tokens"]))[: len(chosen)]
        if result is None:
            result = np.empty((len(tokens), embedded.shape[1]), np.float32)
        result[chosen] = embedded
    if result is None:
        raise ValueError("tokens: no sentence to embed")
    return result
