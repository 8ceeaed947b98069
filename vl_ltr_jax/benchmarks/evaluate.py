"""kNN over sentences and zero-shot recognition: streamed, and at once in PyTorch.

    python -m vl_ltr_jax.benchmarks.evaluate --sentences=100000 --images=1024

Both score image embeddings against every sentence and every class text, and count hits.
The five nearest sentences vote, as in the authors' code. PyTorch holds the cosines of a
batch and all sentences; ours visits the sentences in blocks.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn import functional as F

from vl_ltr_jax.benchmarks import paired
from vl_ltr_jax.evaluate import accuracy
from vl_ltr_jax.evaluate import scores as evaluate_scores

NEIGHBOURS = 5


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=paired.count, default=1024)
    parser.add_argument("--batch_size", type=paired.count, default=256)
    parser.add_argument("--sentences", type=paired.count, default=100_000)
    parser.add_argument("--classes", type=paired.count, default=1000)
    parser.add_argument("--width", type=paired.count, default=512)
    parser.add_argument("--rounds", type=paired.count, default=5)
    options = parser.parse_args(argv)
    if options.images % options.batch_size:
        parser.error(
            f"--images={options.images} is not a multiple of "
            f"--batch_size={options.batch_size}"
        )
    if options.sentences < NEIGHBOURS:
        parser.error(f"--sentences={options.sentences}: at least {NEIGHBOURS} vote")
    rng = np.random.default_rng(0)
    images, sentences, texts = (
        rng.standard_normal((count, options.width), np.float32)
        for count in (options.images, options.sentences, options.classes)
    )
    labels = rng.integers(0, options.classes, options.images).astype(np.int32)
    owners = np.sort(np.arange(options.sentences) % options.classes).astype(np.int32)
    # Images lie near the text of their class: some are recognised.
    images += 0.3 * texts[labels]
    sentences += 0.3 * texts[owners]
    programs = {
        "ours": ours(images, labels, sentences, owners, texts, options.batch_size),
        "PyTorch": plain(images, labels, sentences, owners, texts, options.batch_size),
    }
    hits = {name: np.asarray(program()) for name, program in programs.items()}
    costs = paired.run(programs, options.rounds)
    rows = options.sentences + options.classes
    product = paired.Work(2.0 * options.images * rows * options.width)
    title = (
        f"kNN and zero-shot, {options.images} images x {options.sentences} sentences, "
        f"{options.classes} classes, D {options.width}"
    )
    work = dict.fromkeys(programs, product)
    print(paired.table(title, costs, paired.ceilings(), work))
    for name, (knn, zero_shot) in hits.items():
        print(f"{name}: {knn} hits of kNN, {zero_shot} of zero-shot")


def ours(
    images: np.ndarray,
    labels: np.ndarray,
    sentences: np.ndarray,
    owners: np.ndarray,
    texts: np.ndarray,
    batch_size: int,
) -> Any:
    """The program of this package: top-1 hits of kNN and of zero-shot."""
    num_classes, mask = len(texts), jnp.ones(batch_size, bool)
    frozen = jax.device_put((sentences, owners, texts))

    @jax.jit
    def count(frozen: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        sentences, owners, texts = frozen
        nearest = evaluate_scores.nearest_sentences(
            images, sentences, owners, NEIGHBOURS
        )
        votes = evaluate_scores.knn_votes(*nearest, num_classes)
        zeros = accuracy.AccuracySums.zeros(num_classes)
        sums = (
            accuracy.update(zeros, scores, labels, mask).top1_correct.sum()
            for scores in (votes, evaluate_scores.zero_shot_scores(images, texts))
        )
        return jnp.stack(list(sums))

    batches = [
        jax.device_put(
            (images[start : start + batch_size], labels[start:][:batch_size])
        )
        for start in range(0, len(images), batch_size)
    ]
    return lambda: np.sum([np.asarray(count(frozen, *b)) for b in batches], axis=0)


def plain(
    images: np.ndarray,
    labels: np.ndarray,
    sentences: np.ndarray,
    owners: np.ndarray,
    texts: np.ndarray,
    batch_size: int,
) -> Any:
    """The same in PyTorch, whole batches against all sentences."""
    keys, class_texts = (
        F.normalize(torch.from_numpy(rows), dim=-1) for rows in (sentences, texts)
    )
    targets, classes = torch.from_numpy(labels).long(), torch.from_numpy(owners).long()

    def program() -> np.ndarray:
        hits = torch.zeros(2, dtype=torch.long)
        for start in range(0, len(images), batch_size):
            rows = slice(start, start + batch_size)
            queries = F.normalize(torch.from_numpy(images[rows]), dim=-1)
            nearest = classes[(queries @ keys.T).topk(NEIGHBOURS).indices]
            votes = F.one_hot(nearest, len(class_texts)).sum(1).gather(1, nearest)
            # Of equally many votes, those of the most similar sentence win.
            winner = (votes * NEIGHBOURS - torch.arange(NEIGHBOURS)).argmax(1)
            voted = nearest.gather(1, winner[:, None])[:, 0]
            zero_shot = (queries @ class_texts.T).argmax(1)
            hits[0] += (voted == targets[rows]).sum()
            hits[1] += (zero_shot == targets[rows]).sum()
        return hits.numpy()

    return program


if __name__ == "__main__":
    main()
