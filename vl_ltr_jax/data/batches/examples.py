"""Examples: pixels, label and sentence at each position of the stream.

The callables here travel to worker processes. An example carries its cost and its
unreadable images next to the model's input; :class:`Account` adds them up.

An unreadable training image is tried again, then replaced by another of its class: the
class keeps its share of the batch. The replacement depends on (seed, epoch, draw)
alone. Evaluation stops instead. Not in the paper; VL-LTR's loader stops.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Float32, Int64, UInt8
from PIL import Image

from vl_ltr_jax.data.batches.sampler import BatchSampler
from vl_ltr_jax.data.images.decode import ImageReadError, Picture
from vl_ltr_jax.data.images.transforms import TrainTransform
from vl_ltr_jax.data.sources.dataset import Split

Pixels = UInt8[np.ndarray, "H W 3"]
Timed = tuple[Pixels, Float32[np.ndarray, "2"]]  # seconds: fetching, the rest

_PIXEL_STREAM, _REPLACEMENT_STREAM = 2, 5  # differ from those of the sampler
_RETRY_AFTER_SECONDS = (0.1, 1.0)
_MAX_REPLACEMENTS = 7
_MAX_LISTED = 20
COST, UNREADABLE = "host_seconds", "unreadable"
_WORK = ("fetching files", "decoding and augmenting them")
_REMEDIES = (
    "raise data.num_threads, or move the images to a faster disk",
    "raise data.num_workers (or data.num_threads) while cores are idle, store smaller "
    "images, or take a lighter data.train_recipe",
)


class BadImagesError(ImageReadError):
    """More unreadable training images than the run allows."""


@dataclasses.dataclass(frozen=True)
class TrainExamples:
    """Training examples of one process's rows of the global batches.

    Attributes:
      split: N images; an epoch is N draws.
      transform: see `transforms.train_transform`.
      sampler: draws the global batches.
      seed: of the augmentation.
      batch_size: B, over all processes.
      rows: this process's rows of a global batch.
      known_bad: images that this process does not try again; fills itself.
    """

    split: Split
    transform: TrainTransform
    sampler: BatchSampler
    seed: int
    batch_size: int
    rows: range
    known_bad: set[int] = dataclasses.field(default_factory=set)

    def __call__(self, position: int) -> dict[str, Any]:
        """Returns row `position % b` of step `position // b`."""
        step, row = divmod(position, len(self.rows))
        return self.example(step, self.rows[row])

    def epoch_and_draw(self, step: int, row: int) -> tuple[int, int]:
        """Returns epoch and draw, of N an epoch, of a row of a global batch."""
        return divmod(step * self.batch_size + row, len(self.split))

    def example(self, step: int, row: int) -> dict[str, Any]:
        """Returns a row of a global batch."""
        drawn = self.sampler.draw(step)
        index = int(drawn.images[row])
        draw = self.epoch_and_draw(step, row)
        unreadable = np.full(1 + _MAX_REPLACEMENTS, -1)
        pixels, seconds = self._readable(index, draw, unreadable)
        features = {
            "image": pixels,
            "label": self.split.labels[index],
            COST: seconds,
            UNREADABLE: unreadable,
        }
        if drawn.sentences is not None:
            features["sentence_id"] = drawn.sentences[row].astype(np.int32)
        return features

    def _readable(
        self, index: int, draw: tuple[int, int], unreadable: Int64[np.ndarray, " K"]
    ) -> Timed:
        """Returns pixels of the image or of a replacement; notes unreadable images."""

        def transform(picture: Picture) -> Pixels:
            rng = np.random.default_rng((self.seed, _PIXEL_STREAM, *draw))
            return self.transform(picture, rng)

        def attempts() -> Iterator[int]:
            yield index
            members = np.flatnonzero(self.split.labels == self.split.labels[index])
            rng = np.random.default_rng((self.seed, _REPLACEMENT_STREAM, *draw))
            candidates = rng.permutation(members[members != index])
            yield from candidates[:_MAX_REPLACEMENTS].tolist()

        for number, image in enumerate(attempts()):
            # Waiting for a known bad image at each of its draws would cost days.
            load = _load if image in self.known_bad else _load_patiently
            try:
                return load(self.split, image, transform)
            except ImageReadError as error:
                self.known_bad.add(image)
                unreadable[number], last = image, error
        raise BadImagesError(
            f"none of {(unreadable >= 0).sum()} images of class "
            f"{self.split.labels[index]} can be read, so a batch lacks a row. Mend the "
            f"last: {last}"
        )


@dataclasses.dataclass(frozen=True)
class OrderedExamples:
    """Every image once, in order, padded to whole batches; damage is not skipped.

    Attributes:
      split: N images.
      pixels: from a picture and its index to model input.
      batch_size: B, over all processes.
      rows: this process's rows of a global batch.
    """

    split: Split
    pixels: Callable[[Picture, int], Pixels]
    batch_size: int
    rows: range

    def __call__(self, position: int) -> dict[str, Any]:
        """Returns the example of a position; positions past the end are masked."""
        step, row = divmod(position, len(self.rows))
        index = step * self.batch_size + self.rows[row]
        if index >= len(self.split):
            blank = self.pixels(Image.new("RGB", (1, 1)), 0)
            return {"image": blank, "label": np.int32(0), "mask": np.bool_(False)}
        pixels, _ = _load_patiently(
            self.split, index, lambda picture: self.pixels(picture, index)
        )
        label = self.split.labels[index]
        return {"image": pixels, "label": label, "mask": np.bool_(True)}


def _load_patiently(
    split: Split, index: int, pixels: Callable[[Picture], Pixels]
) -> Timed:
    """Returns pixels and seconds; storage gets time to recover."""
    for pause in _RETRY_AFTER_SECONDS:
        try:
            return _load(split, index, pixels)
        except ImageReadError:
            time.sleep(pause)
    return _load(split, index, pixels)


def _load(split: Split, index: int, pixels: Callable[[Picture], Pixels]) -> Timed:
    start = time.perf_counter()
    content = split.fetch(index)
    fetched = time.perf_counter()
    result = pixels(split.decode(index, content))
    seconds = fetched - start, time.perf_counter() - fetched
    return result, np.array(seconds, np.float32)


class Account:
    """Costs and unreadable images of this process's examples."""

    def __init__(self, split: Split | None = None, limit: float = 0.0) -> None:
        """Starts at zero.

        Args:
          split: training images; None if no image is read.
          limit: share of them that may be unreadable.
        """
        self._split, self._limit = split, limit
        self._seconds = np.zeros(len(_WORK))
        self._bad: dict[int, str] = {}

    def take(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Adds up a batch, and returns the model's input.

        Raises:
          BadImagesError: more images are unreadable than the limit allows.
        """
        seconds: Float32[np.ndarray, "b 2"] = batch[COST]
        self._seconds += seconds.sum(axis=0)
        indices = np.unique(batch[UNREADABLE])
        for index in indices[indices >= 0].tolist():
            if self._split is not None and index not in self._bad:
                self._note(self._split, index)
        return {k: v for k, v in batch.items() if k not in (COST, UNREADABLE)}

    def metrics(self) -> dict[str, float]:
        """Returns `data/bad_images`, the number of different images replaced so far."""
        return {"data/bad_images": float(len(self._bad))}

    def explain(self) -> str:
        """Returns shares of the work on images, largest first, and a remedy."""
        if not self._seconds.any():
            return "no picture is read"
        shares = self._seconds / self._seconds.sum()
        order = np.argsort(-shares)
        parts = ", ".join(f"{_WORK[i]} {shares[i]:.0%}" for i in order)
        return f"the work on images is {parts}; {_REMEDIES[order[0]]}"

    def _note(self, split: Split, index: int) -> None:
        try:
            split.read(index)
            reason = f"{split.describe(index)} could not be read, and now can"
        except ImageReadError as error:
            reason = str(error)
        self._bad[index] = reason
        logging.warning("another image of its class is taken: %s", reason)
        if len(self._bad) / len(split) > self._limit:
            listed = list(self._bad.values())
            more = len(listed) - _MAX_LISTED
            raise BadImagesError(
                f"data.bad_image_limit={self._limit:g}: {len(listed)} of {len(split)} "
                "training images cannot be read. Mend them; `python -m "
                "vl_ltr_jax.data.check` finds all:\n  "
                + "\n  ".join(listed[:_MAX_LISTED])
                + (f"\n  and {more} more" if more > 0 else "")
            )
