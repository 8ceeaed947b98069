"""Accuracy on a class without training images, added by its sentences.

    python -m vl_ltr_jax.benchmarks.added_class --config=configs/shapes_lt.py --workdir=DIR --classes=3,17

Trains a run without each class, then adds the class by its sentences. Prints top-1 on
the test images of the class, and on all other test images before and after.
"""  # noqa: E501

import dataclasses
from collections.abc import Sequence

import numpy as np
from absl import flags
from etils import epath

import vl_ltr_jax
from vl_ltr_jax.commands import exits
from vl_ltr_jax.commands import flags as commands_flags
from vl_ltr_jax.commands.command import Command
from vl_ltr_jax.config import build as configs
from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.data.sources.dataset import LongTailedData, Split
from vl_ltr_jax.recognizer.recognizer import Recognizer
from vl_ltr_jax.run import inputs as run_inputs
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.stages import pipeline

_CLASSES = flags.DEFINE_list("classes", ["0"], "Labels of the classes to leave out.")
COMMAND = Command(
    "vl_ltr_jax.benchmarks.added_class",
    "Trains without a class, adds it by its sentences, and prints its top-1.",
    (
        (
            "two classes of the embedded data set",
            "--config=configs/shapes_lt.py --workdir=runs/added --classes=3,17",
        ),
    ),
)


def without(data: LongTailedData, label: int) -> LongTailedData:
    """Returns the data set without a class; labels above it move down by one."""

    def select(split: Split) -> Split:
        selected = split.select(np.flatnonzero(split.labels != label))
        labels = selected.labels - (selected.labels > label).astype(np.int32)
        return dataclasses.replace(selected, labels=labels)

    def drop(names: tuple[str, ...]) -> tuple[str, ...]:
        return names[:label] + names[label + 1 :]

    return LongTailedData(
        data.name,
        drop(data.class_names),
        drop(data.class_texts),
        select(data.train),
        select(data.val),
        select(data.test),
    )


def top1(recognizer: Recognizer, split: Split, labels: np.ndarray) -> float:
    """Returns the percentage of a split's images that are recognised.

    Args:
      recognizer: model to evaluate.
      split: N images.
      labels: the recognizer's labels of the images, [N].
    """
    images = [split.read(index) for index in range(len(split))]
    predictions = recognizer.probabilities(images).argmax(axis=1)
    return 100 * float((predictions == labels).mean())


def measure(config: Config, workdir: epath.Path, label: int) -> dict[str, float]:
    """Trains without a class, adds it, and measures the accuracies.

    Args:
      config: configuration of the run.
      workdir: directory of the run without the class; finished stages stay.
      label: label of the class.

    Returns:
      Percentages: `added`, top-1 of the class's test images; `old_before` and
      `old_after`, top-1 of all other test images without and with the class.
    """
    everything = run_inputs.read(config)
    data = everything.data
    reduced = run_inputs.read(config, without(data, label))
    pipeline.check(config, workdir, reduced)
    pipeline.run(Run(config, workdir, reduced))
    recognizer = vl_ltr_jax.load(workdir)
    other = reduced.data.test
    before = top1(recognizer, other, other.labels)
    corpus = everything.corpus
    sentences = [corpus.sentences[i] for i in np.flatnonzero(corpus.labels == label)]
    recognizer.add_class(data.class_names[label], sentences)
    own = data.test.select(np.flatnonzero(data.test.labels == label))
    last = np.full(len(own), len(recognizer.class_names) - 1)
    return {
        "added": top1(recognizer, own, last),
        "old_before": before,
        "old_after": top1(recognizer, other, other.labels),
    }


def run(argv: Sequence[str]) -> None:
    """Prints a line for each class."""
    del argv
    with exits.refusing():
        config, workdir = commands_flags.checked_flags(COMMAND)
        meshes.devices()
        labels = _labels(_CLASSES.value)
        _measure_all(config, workdir, labels)


def _labels(words: Sequence[str]) -> list[int]:
    if odd := [word for word in words if not word.isdecimal()]:
        raise configs.ConfigError(
            f"--{_CLASSES.name}={odd[0]}: not a label. Labels are numbers from 0."
        )
    return [int(word) for word in words]


def _measure_all(config: Config, workdir: epath.Path, labels: Sequence[int]) -> None:
    data = run_inputs.read_data(config)
    for label in labels:
        percent = measure(config, workdir / f"without_{label}", label)
        print(
            f"{data.class_names[label]} ({data.train_counts[label]} training images "
            f"left out): top-1 {percent['added']:.1f} by sentences alone (chance "
            f"{100 / len(data.class_names):.1f}); the other classes "
            f"{percent['old_before']:.1f} before, {percent['old_after']:.1f} after",
            flush=True,
        )


if __name__ == "__main__":
    commands_flags.start(run, COMMAND)
