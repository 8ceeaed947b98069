"""From a position in the stream of examples to pixels, label and sentence.

The callables here travel to worker processes. An example tells, beside what the model
sees, what it cost and which images could not be read: :class:`Account` adds that up in
the process that trains.

An unreadable image of training is tried again, for storage may have hiccups, and then
replaced by another image of its class: the class keeps its share of the batch. The
replacement depends on (seed, epoch, draw) alone. Evaluation stops instead. Not in the
paper; VL-LTR's loader stops.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Float32, Int64, Integer, UInt8
from PIL import Image

from vl_ltr_jax.data.batches.sampler import BatchSampler
from vl_ltr_jax.data.images.decode import ImageReadError, Picture
from vl_ltr_jax.data.images.transforms import TrainTransform
from vl_ltr_jax.data.sources.dataset import Split

Pixels = UInt8[np.ndarray, "H W 3"]

_PIXEL_STREAM, _REPLACEMENT_STREAM = 2, 5  # apart from those of the sampler
_RETRY_AFTER_SECONDS = (0.1, 1.0)
_MOST_REPLACEMENTS = 7
_TOLD_AT_MOST = 20
COST, UNREADABLE = "host_seconds", "unreadable"
_WORK = ("fetching files", "decoding and augmenting them")
_REMEDIES = (
    "raise data.num_threads, or move the images to a faster disk",
    "raise data.num_workers (or data.num_threads) while cores are idle, store smaller "
    "images, or take a lighter data.train_recipe",
)


class BadImagesError(ImageReadError):
    """More images of training cannot be read than the run allows."""


@dataclasses.dataclass(frozen=True)
class TrainExamples:
    """Examples of this process's rows of the global batches.

    Attributes:
      split: N images; an epoch is N draws.
      transform: see `transforms.train_transform`.
      sampler: draws the global batches.
      seed: of the augmentation.
      global_batch_size: B, over all processes.
      rows: this process's rows of a global batch.
      tokens: ids of each sentence, where rows have one each.
      known_bad: images that this process need not try again; fills itself.
    """

    split: Split
    transform: TrainTransform
    sampler: BatchSampler
    seed: int
    global_batch_size: int
    rows: range
    tokens: Integer[np.ndarray, "S L"] | None = None
    known_bad: set[int] = dataclasses.field(default_factory=set)

    def __call__(self, position: int) -> dict[str, Any]:
        """The example of a position: row `position % b` of step `position // b`."""
        step, row = divmod(position, len(self.rows))
        return self.example(step, self.rows[row])

    def epoch_and_draw(self, step: int, row: int) -> tuple[int, int]:
        """Where a row of a global batch stands in the epochs of N draws."""
        return divmod(step * self.global_batch_size + row, len(self.split))

    def example(self, step: int, row: int) -> dict[str, Any]:
        """A row of a global batch."""
        drawn = self.sampler.draw(step)
        index = int(drawn.images[row])
        where = self.epoch_and_draw(step, row)
        unreadable = np.full(1 + _MOST_REPLACEMENTS, -1)
        pixels, seconds = self._readable(index, where, unreadable)
        features = {
            "image": pixels,
            "label": self.split.labels[index],
            COST: seconds,
            UNREADABLE: unreadable,
        }
        if drawn.sentences is not None:
            sentence = drawn.sentences[row]
            features["sentence_id"] = sentence.astype(np.int32)
            if self.tokens is not None:
                features["tokens"] = self.tokens[sentence].astype(np.int32)
        return features

    def _readable(
        self,
        index: int,
        where: tuple[int, int],
        unreadable: Int64[np.ndarray, " K"],
    ) -> tuple[Pixels, Float32[np.ndarray, "2"]]:
        """Pixels of the image, or of another of its class; notes those that failed."""

        def transform(picture: Picture) -> Pixels:
            # The generator of an example is that of its draw: (seed, epoch, draw).
            rng = np.random.default_rng((self.seed, _PIXEL_STREAM, *where))
            return self.transform(picture, rng)

        def attempt(image: int) -> tuple[Pixels, Float32[np.ndarray, "2"]]:
            if image in self.known_bad:  # waiting at each draw would cost days
                return _made(self.split, image, transform)
            try:
                return _patiently(self.split, image, transform)
            except ImageReadError:
                self.known_bad.add(image)
                raise

        try:
            return attempt(index)
        except ImageReadError as error:
            last = error
        unreadable[0] = index
        members = np.flatnonzero(self.split.labels == self.split.labels[index])
        rng = np.random.default_rng((self.seed, _REPLACEMENT_STREAM, *where))
        others = rng.permutation(members[members != index])[:_MOST_REPLACEMENTS]
        for number, other in enumerate(others.tolist(), 1):
            try:
                return attempt(other)
            except ImageReadError as error:
                last = error
            unreadable[number] = other
        raise BadImagesError(
            f"none of {1 + len(others)} images of class {self.split.labels[index]} can "
            f"be read, so a batch lacks a row; the last: {last}"
        )


@dataclasses.dataclass(frozen=True)
class OrderedExamples:
    """Every image once, in order, padded to whole batches; damage is not skipped.

    Attributes:
      split: N images.
      pixels: makes model input of a picture and its index.
      global_batch_size: B, over all processes.
      rows: this process's rows of a global batch.
    """

    split: Split
    pixels: Callable[[Picture, int], Pixels]
    global_batch_size: int
    rows: range

    def __call__(self, position: int) -> dict[str, Any]:
        """The example of a position, of which those past the end are masked."""
        step, row = divmod(position, len(self.rows))
        index = step * self.global_batch_size + self.rows[row]
        if index >= len(self.split):
            blank = self.pixels(Image.new("RGB", (1, 1)), 0)
            return {"image": blank, "label": np.int32(0), "mask": np.bool_(False)}
        pixels, _ = _patiently(
            self.split, index, lambda picture: self.pixels(picture, index)
        )
        return {
            "image": pixels,
            "label": self.split.labels[index],
            "mask": np.bool_(True),
        }


def _patiently(
    split: Split, index: int, pixels: Callable[[Picture], Pixels]
) -> tuple[Pixels, Float32[np.ndarray, "2"]]:
    """Pixels of an image, and the seconds that fetching it and the rest took."""
    for pause in _RETRY_AFTER_SECONDS:
        try:
            return _made(split, index, pixels)
        except ImageReadError:
            time.sleep(pause)
    return _made(split, index, pixels)


def _made(
    split: Split, index: int, pixels: Callable[[Picture], Pixels]
) -> tuple[Pixels, Float32[np.ndarray, "2"]]:
    start = time.perf_counter()
    content = split.fetch(index)
    fetched = time.perf_counter()
    made = pixels(split.decode(index, content))
    seconds = fetched - start, time.perf_counter() - fetched
    return made, np.array(seconds, np.float32)


class Account:
    """What the examples of this process cost, and which images could not be read."""

    def __init__(self, split: Split | None = None, limit: float = 0.0) -> None:
        """Starts at nothing.

        Args:
          split: the images of training; None where none are read.
          limit: share of them that may be unreadable.
        """
        self._split, self._limit = split, limit
        self._seconds = np.zeros(len(_WORK))
        self._bad: dict[int, str] = {}

    def take(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Adds up a batch, and leaves what the model sees.

        Raises:
          BadImagesError: if more images are unreadable than the limit allows.
        """
        seconds: Float32[np.ndarray, "b 2"] = batch[COST]
        self._seconds += seconds.sum(axis=0)
        found = np.unique(batch[UNREADABLE])
        for index in found[found >= 0].tolist():
            if index not in self._bad:
                self._note(index)
        return {k: v for k, v in batch.items() if k not in (COST, UNREADABLE)}

    def metrics(self) -> dict[str, float]:
        """`data/bad_images`: how many different images were replaced so far."""
        return {"data/bad_images": float(len(self._bad))}

    def explain(self) -> str:
        """Where the time to prepare images goes, the most first, and what helps."""
        if not self._seconds.any():
            return "no picture is read"
        shares = self._seconds / self._seconds.sum()
        order = np.argsort(-shares)
        parts = ", ".join(f"{_WORK[i]} {shares[i]:.0%}" for i in order)
        return f"the work on images is {parts}; {_REMEDIES[order[0]]}"

    def _note(self, index: int) -> None:
        if self._split is None:
            raise ValueError("an account without images was given an unreadable one")
        try:
            self._split.read(index)
            reason = f"{self._split.describe(index)} could not be read, and now can"
        except ImageReadError as error:
            reason = str(error)
        self._bad[index] = reason
        logging.warning("another image of its class is taken: %s", reason)
        if len(self._bad) / len(self._split) > self._limit:
            listed = list(self._bad.values())
            more = len(listed) - _TOLD_AT_MOST
            raise BadImagesError(
                f"{len(listed)} of {len(self._split)} images of training cannot be "
                f"read, more than data.bad_image_limit={self._limit:g} allows; "
                "`python -m vl_ltr_jax.data.check` finds all of them:\n  "
                + "\n  ".join(listed[:_TOLD_AT_MOST])
                + (f"\n  and {more} more" if more > 0 else "")
            )
