"""Batches for training and evaluation: threads, workers, shares, exact resume.

A batch is a dictionary of numpy arrays with this process's b rows of the global batch:
process p holds rows p * b to (p + 1) * b. So the global batch is the same for any
number of processes, threads and workers. Training batches depend on (seed, step) alone:
a run that starts at a step sees the batches of an unbroken run. Not in the paper.
"""

import contextlib
import dataclasses
import gc
import itertools
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np
from jaxtyping import Float32, Int, Integer

from vl_ltr_jax.data.batches.examples import (
    Account,
    OrderedExamples,
    Pixels,
    TrainExamples,
)
from vl_ltr_jax.data.batches.packing import Packer
from vl_ltr_jax.data.batches.sampler import BatchDraw, BatchSampler
from vl_ltr_jax.data.images.decode import Picture
from vl_ltr_jax.data.images.transforms import EvalTransform, TrainTransform
from vl_ltr_jax.data.sources.dataset import Split
from vl_ltr_jax.runtime.errors import UserError

HostBatch = dict[str, np.ndarray]

_VIEW_STREAM, _CHOICE_STREAM = 3, 4  # of the pixels of views, and of the view drawn
_ENDLESS = 2**62


class BatchSizeError(UserError):
    """A global batch that processes or devices cannot share."""


class WorkerDiedError(RuntimeError):
    """A worker process that was ended by the system."""


@dataclasses.dataclass
class Batches(Iterator[HostBatch]):
    """An endless iterator over training batches.

    Attributes:
      batches: made one by one.
      account: costs and unreadable images of the batches so far.
      drawn: from a number of earlier steps to images and sentences of a step.
      close: ends threads and workers.
    """

    batches: Iterator[HostBatch]
    account: Account
    drawn: Callable[[int], BatchDraw]
    close: Callable[[], object] = lambda: None

    def __next__(self) -> HostBatch:
        return next(self.batches)


class Sentences(NamedTuple):
    """Sentences that training images are paired with.

    Attributes:
      labels: class of each sentence, ascending.
      tokens: ids of each sentence, padded with zeros.
      num_devices: over all processes; sentences are packed for each.
      num_chunks: of each device's batch.
    """

    labels: Int[np.ndarray, "S"]
    tokens: Integer[np.ndarray, "S L"]
    num_devices: int = 1
    num_chunks: int = 1


@dataclasses.dataclass(frozen=True)
class Feed:
    """One process's share of the batches of a run.

    Threads and workers change speed only.

    Attributes:
      batch_size: B, over all processes.
      seed: of draws, augmentations and views.
      process_index: number of the share, from 0.
      process_count: number of shares.
      num_threads: threads that read and transform images.
      num_workers: if above 0, processes that replace the threads; they need
        `absl.app.run`.
      bad_image_limit: share of training images that may be unreadable.

    Raises:
      BatchSizeError: the batch cannot be divided among the processes.
    """

    batch_size: int
    seed: int = 0
    process_index: int = 0
    process_count: int = 1
    num_threads: int = 16
    num_workers: int = 0
    bad_image_limit: float = 0.0

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.batch_size % self.process_count:
            raise BatchSizeError(
                f"the global batch size {self.batch_size} is not a multiple of the "
                f"{self.process_count} processes. Choose one that is."
            )

    @property
    def rows(self) -> range:
        """This process's rows of a global batch."""
        size = self.batch_size // self.process_count
        return range(self.process_index * size, (self.process_index + 1) * size)

    def train(
        self,
        split: Split,
        transform: TrainTransform,
        *,
        sampling: str = "sqrt",
        sentences: Sentences | None = None,
        start_step: int = 0,
    ) -> Batches:
        """Returns endless training batches, from `start_step` on in constant time.

        Args:
          split: N images; an epoch is N draws.
          transform: see `transforms.train_transform`.
          sampling: one of `sampler.SAMPLINGS`.
          sentences: None for images alone.
          start_step: number of the first step.

        Returns:
          An iterator over `image` uint8 [b, H, W, 3] and `label` int32 [b]. With
          sentences also `sentence_id` int32 [b] and the arrays of `Packer.pack`.

        Raises:
          SamplerError: a class with images has no sentence.
          BadImagesError: while iterating, too many images cannot be read.
        """
        sampler = self._sampler(split.labels, sampling, sentences)
        rows = self.rows
        examples = TrainExamples(
            split, transform, sampler, self.seed, self.batch_size, rows
        )
        positions = grain.MapDataset.range(_ENDLESS)[start_step * len(rows) :]
        account = Account(split, self.bad_image_limit)
        raw = self._load(positions.map(examples))
        batches: Iterator[HostBatch] = map(account.take, raw)
        if sentences is not None:
            packer = self._packer(sampler, sentences)
            share = self.process_index, self.process_count
            batches = (
                {**batch, **packer.pack(step, *share)}
                for step, batch in enumerate(batches, start_step)
            )
        return Batches(batches, account, sampler.draw, raw.close)

    def text_shapes(
        self, labels: Int[np.ndarray, "N"], sampling: str, sentences: Sentences
    ) -> list[dict[str, tuple[int, ...]]]:
        """Returns shapes of the sentences of global batches, see `Packer.shapes`."""
        sampler = self._sampler(labels, sampling, sentences)
        return self._packer(sampler, sentences).shapes()

    def _sampler(
        self, labels: Int[np.ndarray, "N"], sampling: str, sentences: Sentences | None
    ) -> BatchSampler:
        return BatchSampler(
            labels,
            sampling=sampling,
            batch_size=self.batch_size,
            seed=self.seed,
            sentence_labels=None if sentences is None else sentences.labels,
        )

    def _packer(self, sampler: BatchSampler, sentences: Sentences) -> Packer:
        return Packer(
            sentences.tokens,
            self.batch_size,
            sentences.num_devices,
            sentences.num_chunks,
            lambda step: np.asarray(sampler.draw(step).sentences),
        )

    def evaluate(self, split: Split, transform: EvalTransform) -> Iterator[HostBatch]:
        """Returns batches of every image once, in order; the last one is padded.

        Returns:
          An iterator over `image` uint8 [b, H, W, 3], `label` int32 [b] and `mask` bool
          [b], False for padding. Every process yields ceil(N / B) batches.

        Raises:
          ImageReadError: while iterating, an image cannot be read.
        """
        return self._in_order(split, lambda picture, index: transform(picture))

    def view(
        self, split: Split, transform: TrainTransform, number: int
    ) -> Iterator[HostBatch]:
        """Returns batches of one augmented view of every image, as :meth:`evaluate`.

        The pixels of an image depend on seed, number and index alone.
        """

        def pixels(picture: Picture, index: int) -> Pixels:
            key = (self.seed, _VIEW_STREAM, number, index)
            return transform(picture, np.random.default_rng(key))

        return self._in_order(split, pixels)

    def features(
        self,
        views: Sequence[Float32[np.ndarray, "N D"]],
        labels: Int[np.ndarray, "N"],
        *,
        sampling: str = "sqrt",
        start_step: int = 0,
    ) -> Batches:
        """Returns endless training batches of features, from `start_step` on.

        The images of a step are those of :meth:`train`. Each comes from a view drawn
        with equal chances.

        Args:
          views: one or more, each with features of every image; only drawn rows of
            memory-mapped views are read.
          labels: class of each image.
          sampling: one of `sampler.SAMPLINGS`.
          start_step: number of the first step.

        Returns:
          An iterator over `features` float32 [b, D] and `label` int32 [b].
        """
        sampler = self._sampler(labels, sampling, None)
        rows = slice(self.rows.start, self.rows.stop)

        def batch(step: int) -> HostBatch:
            images = sampler.draw(step).images[rows]
            rng = np.random.default_rng((self.seed, _CHOICE_STREAM, step))
            chosen = rng.integers(len(views), size=self.batch_size)[rows]
            features = np.empty((len(images), views[0].shape[1]), np.float32)
            for view, table in enumerate(views):
                here = chosen == view
                features[here] = table[images[here]]
            return {"features": features, "label": labels[images].astype(np.int32)}

        batches = map(batch, itertools.count(start_step))
        return Batches(batches, Account(), sampler.draw)

    def _in_order(
        self, split: Split, pixels: Callable[[Picture, int], Pixels]
    ) -> Iterator[HostBatch]:
        """Returns batches of `pixels` of each picture and its index."""
        examples = OrderedExamples(split, pixels, self.batch_size, self.rows)
        num_batches = -(-len(split) // self.batch_size)
        positions = grain.MapDataset.range(num_batches * len(self.rows))
        return self._load(positions.map(examples))

    def _load(
        self, examples: grain.MapDataset[dict[str, Any]]
    ) -> Generator[HostBatch, None, None]:
        batch_size = len(self.rows)
        if self.num_workers:
            # A worker makes whole batches, one at a time: they travel in shared memory,
            # which those in a buffer of its own would never give back.
            options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
            workers = grain.MultiprocessingOptions(
                self.num_workers, per_worker_buffer_size=1
            )
            dataset = examples.batch(batch_size).to_iter_dataset(options)
            dataset = dataset.mp_prefetch(workers, worker_init_fn=_end_with_parent)
        else:
            # Threads share out examples, not batches, and fill two batches ahead: a
            # short wait for the first batch, and little memory.
            ahead = 2 * max(batch_size, self.num_threads)
            options = grain.ReadOptions(self.num_threads, prefetch_buffer_size=ahead)
            dataset = examples.to_iter_dataset(options).batch(batch_size)
        with contextlib.closing(iter(dataset)) as batches:
            while True:
                try:
                    batch = next(batches, None)
                except RuntimeError as error:
                    if "terminated unexpectedly" not in str(error):
                        raise
                    raise WorkerDiedError(
                        f"data.num_workers={self.num_workers}: a worker has ended "
                        f"({error}). -9 and -7 mean that memory or /dev/shm is short: "
                        "take fewer workers or a smaller batch. The same command "
                        "resumes from the last checkpoint."
                    ) from None
                if batch is None:
                    break
                if self.num_workers:  # shared memory is scarce: do not hold on to it
                    batch = {name: np.array(array) for name, array in batch.items()}
                yield batch
        if self.num_workers:
            del batches, batch
            gc.collect()  # cycles of references hold the workers' shared memory


def _end_with_parent(index: int, count: int) -> None:
    """Ends a worker after its parent was killed, which frees the worker's memory."""
    del index, count
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
