"""Images and sentences of each training batch.

VL-LTR draws images with replacement, N draws to an epoch. The mass of a class grows as
the square root of its count. Each image gets a sentence drawn uniformly from those of
its class, prompts and encyclopaedia alike. `class_aware` is the sampler that cRT and
LWS train classifiers with (Kang et al., 2020): classes in turn, without replacement.
Their epoch is N draws as well.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int, Int64

from vl_ltr_jax.logs.messages import unknown_name
from vl_ltr_jax.runtime.errors import UserError

# Weight of an image as a power of its class's count.
POWERS = {"uniform": 0.0, "sqrt": -0.5, "class_balanced": -1.0}
SAMPLINGS = (*POWERS, "class_aware")
IMAGES_PER_VISIT = 4  # of a class, by the class-aware sampler, as in its authors' code
# Threads that prepare rows of a batch may be at different steps.
_STEPS_AT_ONCE = 16
_STREAM, _CYCLE_STREAM = 1, 6  # differ from those of the augmentation


class SamplerError(UserError):
    """A data set from which no training batch can be drawn."""


class BatchDraw(NamedTuple):
    """Images of a global batch, and a sentence of the class of each."""

    images: Int64[np.ndarray, "B"]
    sentences: Int64[np.ndarray, "B"] | None


def sample_probabilities(
    labels: Int[np.ndarray, "N"], sampling: str = "sqrt"
) -> Float64[np.ndarray, "N"]:
    """Returns the probability of each image to be drawn.

    Args:
      labels: class of each image.
      sampling: `sqrt` (n_c^-1/2 per image of a class with n_c), `uniform`, or
        `class_balanced` (1 / n_c).

    Raises:
      ValueError: the rule is unknown.
    """
    if sampling not in POWERS:
        raise unknown_name("the sampling", sampling, POWERS)
    weights = np.bincount(labels)[labels] ** POWERS[sampling]
    return weights / weights.sum()


class ClassAwareDraws:
    """Classes in a random order for each cycle, `IMAGES_PER_VISIT` images of each.

    The images of a class get a new random order each time it is used up. A draw depends
    on the seed and its number alone, so any step can be the first.
    """

    def __init__(self, labels: Int[np.ndarray, "N"], seed: int) -> None:
        """Sorts the images by class."""
        counts = np.bincount(labels)
        self._classes = np.flatnonzero(counts)
        self._counts, self._ends = counts, np.cumsum(counts)
        self._by_class = np.argsort(labels, kind="stable")
        self._seed = seed

    def images(self, first: int, count: int) -> Int64[np.ndarray, "{count}"]:
        """Returns the images of draws `first` to `first + count`."""
        draws = np.arange(first, first + count)
        visits, places = np.divmod(draws, IMAGES_PER_VISIT)
        cycles, turns = np.divmod(visits, len(self._classes))
        chosen = np.empty(count, np.int64)
        for cycle in np.unique(cycles):
            order = self._permutation(0, int(cycle), self._classes)
            here = cycles == cycle
            chosen[here] = order[turns[here]]
        # A class is visited once a cycle, so these are consecutive for each class.
        uses = cycles * IMAGES_PER_VISIT + places
        passes, nth = np.divmod(uses, self._counts[chosen])
        images = np.empty(count, np.int64)
        for label, number in set(zip(chosen.tolist(), passes.tolist(), strict=True)):
            end = self._ends[label]
            members = self._by_class[end - self._counts[label] : end]
            here = (chosen == label) & (passes == number)
            images[here] = self._permutation(1 + label, number, members)[nth[here]]
        return images

    def _permutation(
        self, stream: int, number: int, values: Int[np.ndarray, "K"]
    ) -> Int[np.ndarray, "K"]:
        rng = np.random.default_rng((self._seed, _CYCLE_STREAM, stream, number))
        return rng.permutation(values)


class BatchSampler:
    """Draws global batches; every draw depends on the seed and the step alone."""

    def __init__(
        self,
        labels: Int[np.ndarray, "N"],
        *,
        sampling: str,
        batch_size: int,
        seed: int,
        sentence_labels: Int[np.ndarray, "S"] | None = None,
    ) -> None:
        """Prepares the draws.

        Args:
          labels: class of each image.
          sampling: one of `SAMPLINGS`.
          batch_size: B, over all processes.
          seed: at least 0.
          sentence_labels: class of each sentence, ascending; None draws images alone.

        Raises:
          SamplerError: no image is listed, or a class with images has no sentence.
          ValueError: the sentences are not in the order of their classes.
        """
        if not len(labels):
            raise SamplerError("the training split has no images. List at least one.")
        self._labels = labels
        self._batch_size = batch_size
        self._seed = seed
        self._in_turn: ClassAwareDraws | None = None
        if sampling == "class_aware":
            self._in_turn = ClassAwareDraws(labels, seed)
        else:
            self._cumulative = np.cumsum(sample_probabilities(labels, sampling))
            self._cumulative /= self._cumulative[-1]
        self._offsets = (
            None if sentence_labels is None else _offsets(labels, sentence_labels)
        )

        self._recent = functools.lru_cache(_STEPS_AT_ONCE)(self._draw)

    def __getstate__(self) -> dict[str, Any]:
        """Returns the state for a worker process, without the recent draws."""
        return {k: v for k, v in self.__dict__.items() if k != "_recent"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._recent = functools.lru_cache(_STEPS_AT_ONCE)(self._draw)

    def draw(self, step: int) -> BatchDraw:
        """Returns the global batch of a step; recent ones are cached."""
        return self._recent(step)

    def _draw(self, step: int) -> BatchDraw:
        rng = np.random.default_rng((self._seed, _STREAM, step))
        if self._in_turn is not None:
            images = self._in_turn.images(step * self._batch_size, self._batch_size)
        else:
            chosen = rng.random(self._batch_size)
            images = np.searchsorted(self._cumulative, chosen, side="right")
        if self._offsets is None:
            return BatchDraw(images, None)
        labels = self._labels[images]
        first, end = self._offsets[labels], self._offsets[labels + 1]
        return BatchDraw(images, rng.integers(first, end))


def _offsets(
    labels: Int[np.ndarray, "N"], sentence_labels: Int[np.ndarray, "S"]
) -> Int64[np.ndarray, "C_plus_1"]:
    """Returns the first sentence of each class, and the number of sentences."""
    if (np.diff(sentence_labels) < 0).any():
        raise ValueError(
            "the sentences are not in ascending order of their classes; sort them"
        )
    offsets = np.searchsorted(sentence_labels, np.arange(int(labels.max()) + 2))
    has_images = np.bincount(labels) > 0
    if (silent := np.flatnonzero(has_images & (np.diff(offsets) == 0))).size:
        raise SamplerError(
            f"{len(silent)} classes have training images but no sentence, the first is "
            f"class {silent[0]}. Add a text or prompts."
        )
    return offsets
