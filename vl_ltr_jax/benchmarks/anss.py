"""AnSS, all sentences against all images: streamed, and one by one in PyTorch.

    python -m vl_ltr_jax.benchmarks.anss --sentences=20000 --images=20000

PyTorch scores a sentence by the paper's formula: its logits to all images, their log
softmax, the mean over the images of its class. A second PyTorch program takes 512
sentences at a time. `--growth` runs ours only, from a quarter of the size to four
times.
"""

import argparse
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import torch

from vl_ltr_jax.benchmarks import paired
from vl_ltr_jax.method import anss

TEMPERATURE_INVERSE = 100.0
LOGIT_SCALE = float(np.log(TEMPERATURE_INVERSE))


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sentences", type=paired.count, default=20_000)
    parser.add_argument("--images", type=paired.count, default=20_000)
    parser.add_argument("--width", type=paired.count, default=512)
    parser.add_argument("--classes", type=paired.count, default=365)
    parser.add_argument("--rounds", type=paired.count, default=3)
    parser.add_argument("--growth", action="store_true", help="ours alone, five sizes")
    options = parser.parse_args(argv)
    if min(options.sentences, options.images) < 4:
        parser.error("at least 4 sentences and images are needed")
    if options.growth:
        growth(options.sentences, options.images, options.width, options.classes)
        return
    sizes = options.sentences, options.images, options.width
    programs, error = sides(*sizes, options.classes)
    costs = paired.run(programs, options.rounds)
    work = dict.fromkeys(programs, paired.Work(2.0 * math.prod(sizes)))
    title = "AnSS, {} sentences x {} images, D {}".format(*sizes)
    print(paired.table(title, costs, paired.ceilings(), work))
    print(f"largest relative error against float64: {error():.1e}")


def sides(
    sentences: int, images: int, width: int, classes: int, device: str = "cpu"
) -> tuple[dict[str, Callable[[], Any]], Callable[[], float]]:
    """Returns programs by name, ours first, and a function to the error of ours.

    Args:
      sentences: to score.
      images: that score them.
      width: of embeddings.
      classes: of both.
      device: of PyTorch; its scores come back to the host.
    """
    rng = np.random.default_rng(0)

    def embeddings(count: int) -> np.ndarray:
        rows = rng.normal(size=(count, width)).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    texts, pictures = embeddings(sentences), embeddings(images)
    text_labels = np.sort(np.arange(sentences) % classes)
    image_labels = np.arange(images) % classes
    text, text_class = jax.device_put((texts, text_labels))
    image, image_class = jax.device_put((pictures, image_labels))

    def ours() -> jax.Array:
        return anss.score_sentences(text, text_class, image, image_class, LOGIT_SCALE)

    torch_texts, torch_images, torch_labels, targets = (
        torch.from_numpy(array).to(device)
        for array in (texts, pictures, text_labels, image_labels)
    )

    def in_blocks(size: int) -> torch.Tensor:
        scores = torch.empty(len(texts), device=device)
        for start in range(0, len(texts), size):
            rows = slice(start, start + size)
            logits = TEMPERATURE_INVERSE * (torch_texts[rows] @ torch_images.T)
            own = torch_labels[rows, None] == targets[None]
            log_p = torch.log_softmax(logits, dim=1)
            scores[rows] = -(log_p * own).sum(1) / own.sum(1)
        return scores.cpu()

    def one_by_one() -> torch.Tensor:
        scores = torch.empty(len(texts), device=device)
        for index, text in enumerate(torch_texts):
            log_p = torch.log_softmax(
                TEMPERATURE_INVERSE * (torch_images @ text), dim=0
            )
            scores[index] = -log_p[targets == torch_labels[index]].mean()
        return scores.cpu()

    def error() -> float:
        sample = slice(0, min(256, sentences))
        logits = TEMPERATURE_INVERSE * (texts[sample].astype(np.float64) @ pictures.T)
        log_p = logits - np.log(np.exp(logits - 100).sum(1, keepdims=True)) - 100
        exact = [
            -log_p[row, image_labels == label].mean()
            for row, label in enumerate(text_labels[sample])
        ]
        return float(np.abs(np.asarray(ours())[sample] / exact - 1).max())

    programs = {
        "ours": ours,
        "PyTorch, one by one": one_by_one,
        "PyTorch, 512 at a time": lambda: in_blocks(512),
    }
    return programs, error


def growth(sentences: int, images: int, width: int, classes: int) -> None:
    """Prints time and memory of ours at a quarter to four times a size."""
    rng = np.random.default_rng(0)
    print(f"{'sentences':>9} {'images':>9} {'seconds':>9} {'GFLOP/s':>9} {'MiB':>9}")
    for factor in (0.25, 0.5, 1, 2, 4):
        counts = int(factor * sentences), int(factor * images)
        (text, text_class), (image, image_class) = (
            jax.device_put(
                (
                    rng.standard_normal((count, width), np.float32),
                    np.sort(np.arange(count) % classes),
                )
            )
            for count in counts
        )
        score = functools.partial(
            anss.score_sentences, text, text_class, image, image_class, LOGIT_SCALE
        )
        cost = paired.run({"ours": score}, rounds=2)["ours"]
        seconds, work = min(cost.seconds), 2.0 * counts[0] * counts[1] * width
        print(
            f"{counts[0]:9} {counts[1]:9} {seconds:9.3f} {work / seconds / 1e9:9.0f} "
            f"{cost.peak_bytes / 2**20:9.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
