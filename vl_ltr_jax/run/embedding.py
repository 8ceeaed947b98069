"""Embeddings of whole data sets: every image of a split, every sentence of the corpus.

Batches of one fixed size run under one compiled function per length; results come back
to every host in the order of the data, whatever the number of processes.
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
    """Embeds the images of padded evaluation batches.

    Args:
      encode: jitted function from uint8 images [B, H, W, 3] to embeddings [B, D].
      batches: host-local batches with `image`, `label` and `mask`.
      mesh: the devices; images are sharded over its data axis.

    Returns:
      Embeddings [N, D], float32 whatever was computed in and not normalised, and
      labels [N], without the padding.
    """
    embeddings, labels = [], []
    for batch in batches:
        arrays = meshes.to_global(mesh, batch)
        valid = meshes.to_host(arrays["mask"]).astype(bool)
        embedded = meshes.to_host(encode(arrays["image"]))[valid]
        embeddings.append(embedded.astype(np.float32))
        labels.append(meshes.to_host(arrays["label"])[valid])
    return np.concatenate(embeddings), np.concatenate(labels)


def embed_sentences(
    encode: Callable[[Array], Array],
    tokens: Integer[np.ndarray, "S L"],
    mesh: jax.sharding.Mesh,
    batch_size: int,
    what: str = "embed",
) -> Float[np.ndarray, "S D"]:
    """Embeds tokenised sentences, the short ones in short batches.

    The text tower is causal and pools at the end of the text, so cutting the padding
    off changes nothing but the time.

    Args:
      encode: jitted function from tokens int32 [B, L] to embeddings [B, D].
      tokens: zero-padded token ids.
      mesh: the devices; sentences are sharded over its data axis.
      batch_size: sentences in a global batch.
      what: begins the line of progress.

    Returns:
      Embeddings [S, D], not normalised, in the order of `tokens`.
    """
    # The end of text has the largest id; zero is a token too.
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
        raise ValueError("there is no sentence to embed")
    return result
