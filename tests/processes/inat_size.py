"""A data set of iNaturalist 2018's size: how long it takes to open, and what it holds.

python tests/processes/inat_size.py [--class_counts=FILE.json]

8,142 classes, 437,513 training and 24,426 validation rows in the official JSON files,
with every field of theirs. A class's rows share one tiny picture for each split, so
that no disk is filled; a long text for each class gives a corpus of about a million
sentences. Opens it in this process as a run does, makes a batch, and prints seconds and
the peak of resident memory.
"""

import argparse
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int
from PIL import Image

from vl_ltr_jax.commands import exits
from vl_ltr_jax.data.batches import loader
from vl_ltr_jax.data.images import transforms
from vl_ltr_jax.data.shapes.articles import binomials
from vl_ltr_jax.data.sources import inat18
from vl_ltr_jax.data.text import token_cache
from vl_ltr_jax.data.text.corpus import build_corpus
from vl_ltr_jax.data.text.tokenizer import Tokenizer
from vl_ltr_jax.run.initial import model_source
from vl_ltr_jax.storage import paths

CLASSES, TRAIN, VAL = 8142, 437_513, 24_426
MOST, LEAST = 1000, 2
_GENERA = 2714  # of three species each
_SENTENCES = 43  # of a class's text, beside 80 prompts
_BATCH_SIZE = 128


def long_tail() -> Int[np.ndarray, " C"]:
    """Counts with iNaturalist's extremes and sum, ever steeper towards the head."""
    ranks = np.arange(CLASSES) / (CLASSES - 1)

    def counts(bend: float) -> Int[np.ndarray, " C"]:
        return np.floor(MOST * (LEAST / MOST) ** (ranks**bend) + 1e-9).astype(np.int64)

    low, high = 0.05, 1.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (low, middle) if counts(middle).sum() > TRAIN else (middle, high)
    found = counts(low)
    found[1 : 1 + TRAIN - found.sum()] += 1
    return found


def write(root: Path, counts: Int[np.ndarray, " C"]) -> None:
    """Writes the data set in the official layout.

    Args:
      root: an empty directory.
      counts: training images of each class.
    """
    rng = np.random.default_rng(0)
    names = binomials(_GENERA, CLASSES // _GENERA, rng)
    categories = [{"id": label, "name": name} for label, name in enumerate(names)]
    (root / "categories.json").write_text(json.dumps(categories))
    (root / "wiki").mkdir()
    words = np.array("leaf wing stem is grows lives small the of in a white".split())
    for label, name in enumerate(names):
        drawn = rng.choice(words, (_SENTENCES, 20))
        text = " ".join(f"{name} {' '.join(row)}." for row in drawn.tolist())
        (root / "wiki" / f"desc_{label}.txt").write_text(text)
    picture = io.BytesIO()
    Image.new("RGB", (16, 12), (90, 120, 60)).save(picture, "JPEG")
    original = root / "picture.jpg"
    original.write_bytes(picture.getvalue())
    every = np.full(CLASSES, VAL // CLASSES)
    for split, of_split in (("train", counts), ("val", every)):
        paths = []
        for label in range(CLASSES):
            folder = root / f"train_val2018/Plantae/{label}"
            folder.mkdir(parents=True, exist_ok=True)
            paths.append(f"train_val2018/Plantae/{label}/{split}{label:027x}.jpg")
            os.link(original, root / paths[-1])
        labels = np.repeat(np.arange(CLASSES), of_split).tolist()
        content = {
            "info": {"year": 2018, "version": 1},
            "images": [
                {
                    "license": 3,
                    "file_name": paths[label],
                    "rights_holder": f"observer {index % 5000}",
                    "height": 600,
                    "width": 800,
                    "id": index,
                }
                for index, label in enumerate(labels)
            ],
            "annotations": [
                {"image_id": index, "category_id": label, "id": index}
                for index, label in enumerate(labels)
            ],
        }
        (root / f"{split}2018.json").write_text(json.dumps(content))


def measure(root: Path, cache: Path) -> dict[str, float]:
    """Opens the data set at `root` and makes a batch; seconds, and MiB at the peak."""
    seconds = {}
    start = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal start
        seconds[f"{name} s"] = time.perf_counter() - start
        start = time.perf_counter()

    data = inat18.read_inat18(root)
    lap("open")
    corpus = build_corpus(data.class_names, data.class_texts)
    lap("corpus")
    tokenizer = Tokenizer.from_directory(model_source("tiny_clip"))
    tokens = token_cache.encode(tokenizer, corpus.sentences, 77, cache)
    lap("tokens")
    batches = loader.Feed(_BATCH_SIZE, num_threads=2).train(
        data.train,
        transforms.train_transform("rand_augment", 224),
        sentences=loader.Sentences(corpus.labels, tokens, 8),
        start_step=1_000_000,
    )
    lap("sampler")
    next(batches)
    lap("first batch")
    start = time.perf_counter()
    token_cache.encode(tokenizer, corpus.sentences, 77, cache)
    lap("tokens again, from the cache")
    # Not of getrusage, which counts what the calling program had before this one.
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    sizes = {"images": len(data.train), "sentences": len(corpus.sentences)}
    return {**sizes, **seconds, "peak MiB": peak}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--class_counts", type=Path, help="JSON list of 8,142 training counts"
    )
    parser.add_argument(
        "--root", type=Path, help="measure a data set that lies there already"
    )
    words = sys.argv[1:] if arguments is None else arguments
    given = parser.parse_args(paths.expand_arguments(words))
    counts = long_tail()
    if given.class_counts:
        counts = np.array(json.loads(given.class_counts.read_text()))
        if counts.shape != (CLASSES,) or counts.min() < 1:
            parser.error(f"{given.class_counts} does not hold {CLASSES} counts from 1")
    with tempfile.TemporaryDirectory() as directory:
        root = given.root or Path(directory) / "inat18"
        if not given.root:
            root.mkdir()
            write(root, counts)
        for name, value in measure(root, Path(directory) / "cache").items():
            print(f"{name:32} {value:12,.2f}")


if __name__ == "__main__":
    with exits.refusing():
        main()
