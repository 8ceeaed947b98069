"""Batches for training and evaluation: threads, workers, shares, exact resume.

A batch is a dictionary of numpy arrays with this process's b rows of the global batch:
process p holds rows p * b to (p + 1) * b, so the global batch is the same for any
number of processes, threads and workers. Training batches depend on (seed, step) alone:
a run that starts at a step sees what an unbroken run sees there. Not in the paper.
"""

import contextlib
import gc
import itertools
import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

import grain
import numpy as np
from jaxtyping import Float32, Int, Integer, UInt8

from vl_ltr_jax.data.batches.examples import Account, OrderedExamples, TrainExamples
from vl_ltr_jax.data.batches.packing import Packer
from vl_ltr_jax.data.batches.sampler import BatchDraw, BatchSampler
from vl_ltr_jax.data.images.decode import Picture
from vl_ltr_jax.data.images.transforms import EvalTransform, TrainTransform
from vl_ltr_jax.data.sources.dataset import Split
from vl_ltr_jax.runtime.errors import UserError

HostBatch = dict[str, np.ndarray]

_VIEW_STREAM, _CHOICE_STREAM = 3, 4  # of the pixels of views, and of which is drawn
_ENDLESS = 2**62


class BatchSizeError(UserError):
    """A global batch that processes or devices cannot share."""


class WorkerDiedError(RuntimeError):
    """A worker process ended, not by an error of its own."""


class Batches(Iterator[HostBatch]):
    """An iterator over batches of training, with what they cost and are drawn of."""

    def __init__(
        self,
        batches: Iterable[HostBatch],
        account: Account,
        drawn: Callable[[int], BatchDraw],
        close: Callable[[], object] = lambda: None,
    ) -> None:
        """Joins the three.

        Args:
          batches: endless.
          account: kept while they are made.
          drawn: from the number of steps before to images and sentences of a step.
          close: ends what makes them.
        """
        self._batches, self.account, self.close = iter(batches), account, close
        self.drawn = drawn

    def __next__(self) -> HostBatch:
        return next(self._batches)


def train_batches(
    split: Split,
    *,
    transform: TrainTransform,
    seed: int,
    global_batch_size: int,
    sampling: str = "sqrt",
    sentence_labels: Int[np.ndarray, "S"] | None = None,
    tokens: Integer[np.ndarray, "S L"] | None = None,
    process_index: int = 0,
    process_count: int = 1,
    start_step: int = 0,
    num_threads: int = 16,
    num_workers: int = 0,
    bad_image_limit: float = 0.0,
    packing: tuple[int, int] | None = None,
) -> Batches:
    """Endless training batches, from `start_step` on.

    Args:
      split: N images; an epoch is N draws.
      transform: see `transforms.train_transform`.
      seed: of all draws and augmentations.
      global_batch_size: B, over all processes.
      sampling: one of `sampler.SAMPLINGS`.
      sentence_labels: class of each sentence, ascending; with `tokens` or not at all.
      tokens: ids of each sentence.
      process_index: which share of the global batch to yield.
      process_count: number of shares.
      start_step: first step, constant time for any value.
      num_threads: that read and transform images; changes nothing but speed.
      num_workers: processes that do so instead of threads, where above 0; started
        under `absl.app.run` only. Changes nothing but speed.
      bad_image_limit: share of the images that may be unreadable, see `examples`.
      packing: devices over all processes, and chunks of each device's batch, that
        sentences are packed for; None leaves one to a row.

    Returns:
      An iterator over `image` uint8 [b, H, W, 3] and `label` int32 [b], with sentences
      also `sentence_id` int32 [b] and `tokens` int32 [b, L], or what
      :meth:`packing.Packer.pack` returns.

    Raises:
      ValueError: if sizes do not fit, or a class with images has no sentence; while
        iterating, BadImagesError lists images if too many cannot be read.
    """
    rows = _rows(global_batch_size, process_index, process_count)
    counts = [None if a is None else len(a) for a in (sentence_labels, tokens)]
    if counts[0] != counts[1]:
        raise ValueError(
            f"sentence_labels and tokens have {counts[0]} and {counts[1]} rows; give "
            "both, one row per sentence, or neither"
        )
    sampler = BatchSampler(
        split.labels,
        sampling=sampling,
        batch_size=global_batch_size,
        seed=seed,
        sentence_labels=sentence_labels,
    )
    examples = TrainExamples(
        split,
        transform,
        sampler,
        seed,
        global_batch_size,
        rows,
        tokens if packing is None else None,
    )
    positions = grain.MapDataset.range(_ENDLESS)[start_step * len(rows) :]
    account = Account(split, bad_image_limit)
    made = _batches(positions.map(examples), len(rows), num_threads, num_workers)
    batches = map(account.take, made)
    if packing is None or tokens is None:
        return Batches(batches, account, sampler.draw, made.close)
    packer = Packer(
        tokens,
        global_batch_size,
        *packing,
        lambda step: np.asarray(sampler.draw(step).sentences),
    )
    packed = (
        {**batch, **packer.pack(step, process_index, process_count)}
        for step, batch in enumerate(batches, start_step)
    )
    return Batches(packed, account, sampler.draw, made.close)


def eval_batches(
    split: Split,
    *,
    transform: EvalTransform,
    global_batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 16,
    num_workers: int = 0,
) -> Iterator[HostBatch]:
    """Every image once, in order; the last batch is padded.

    Args:
      split: N images.
      transform: see `transforms.eval_transform`.
      global_batch_size: B, over all processes.
      process_index: which share of each global batch to yield.
      process_count: number of shares.
      num_threads: that read and transform images; changes nothing but speed.
      num_workers: processes that do so instead, where above 0.

    Returns:
      An iterator over `image` uint8 [b, H, W, 3], `label` int32 [b] and `mask` bool
      [b], False for padding. Every process yields ceil(N / B) batches.

    Raises:
      ValueError: if sizes do not fit; while iterating, ImageReadError names an image
        that cannot be read.
    """
    return _in_order(
        split,
        lambda image, index: transform(image),
        global_batch_size,
        process_index,
        process_count,
        num_threads,
        num_workers,
    )


def view_batches(
    split: Split,
    *,
    transform: TrainTransform,
    seed: int,
    view: int,
    global_batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 16,
    num_workers: int = 0,
) -> Iterator[HostBatch]:
    """One augmented view of every image, in order; the last batch is padded.

    The pixels of an image depend on the seed, the view and its index alone.

    Args:
      split: N images.
      transform: see `transforms.train_transform`.
      seed: of all views.
      view: number of the view, from 0.
      global_batch_size: B, over all processes.
      process_index: which share of each global batch to yield.
      process_count: number of shares.
      num_threads: that read and transform images; changes nothing but speed.
      num_workers: processes that do so instead, where above 0.

    Returns:
      An iterator over what :func:`eval_batches` yields.

    Raises:
      ValueError: as :func:`eval_batches` does.
    """

    def pixels(picture: Picture, index: int) -> UInt8[np.ndarray, "H W 3"]:
        return transform(
            picture, np.random.default_rng((seed, _VIEW_STREAM, view, index))
        )

    return _in_order(
        split,
        pixels,
        global_batch_size,
        process_index,
        process_count,
        num_threads,
        num_workers,
    )


def feature_batches(
    views: Sequence[Float32[np.ndarray, "N D"]],
    labels: Int[np.ndarray, "N"],
    *,
    seed: int,
    global_batch_size: int,
    sampling: str = "sqrt",
    process_index: int = 0,
    process_count: int = 1,
    start_step: int = 0,
) -> Batches:
    """Endless training batches of features, from `start_step` on.

    The images of a step are those of :func:`train_batches`; each comes from a view
    drawn with equal chances.

    Args:
      views: one or more, each with features of every image; may be mapped into memory,
        since only the rows drawn are read.
      labels: class of each image.
      seed: of all draws.
      global_batch_size: B, over all processes.
      sampling: one of `sampler.SAMPLINGS`.
      process_index: which share of the global batch to yield.
      process_count: number of shares.
      start_step: first step, constant time for any value.

    Returns:
      An iterator over `features` float32 [b, D] and `label` int32 [b].

    Raises:
      ValueError: if sizes do not fit.
    """
    rows = _rows(global_batch_size, process_index, process_count)
    sampler = BatchSampler(
        labels, sampling=sampling, batch_size=global_batch_size, seed=seed
    )

    def batch(step: int) -> HostBatch:
        own = slice(rows.start, rows.stop)
        images = sampler.draw(step).images[own]
        rng = np.random.default_rng((seed, _CHOICE_STREAM, step))
        chosen = rng.integers(len(views), size=global_batch_size)[own]
        features = np.empty((len(rows), views[0].shape[1]), np.float32)
        for view, table in enumerate(views):
            here = chosen == view
            features[here] = table[images[here]]
        return {"features": features, "label": labels[images].astype(np.int32)}

    batches = map(batch, itertools.count(start_step))
    return Batches(batches, Account(), sampler.draw)


def _in_order(
    split: Split,
    pixels: Callable[[Picture, int], UInt8[np.ndarray, "H W 3"]],
    global_batch_size: int,
    process_index: int,
    process_count: int,
    num_threads: int,
    num_workers: int,
) -> Iterator[HostBatch]:
    """Every image once, `pixels` made of the picture and its index."""
    rows = _rows(global_batch_size, process_index, process_count)
    examples = OrderedExamples(split, pixels, global_batch_size, rows)
    num_batches = -(-len(split) // global_batch_size)
    positions = grain.MapDataset.range(num_batches * len(rows))
    return _batches(positions.map(examples), len(rows), num_threads, num_workers)


def _end_with_parent(index: int, count: int) -> None:
    """Ends a worker whose parent was killed: nobody else would, nor free its memory."""
    del index, count
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _rows(global_batch_size: int, process_index: int, process_count: int) -> range:
    """This process's rows of a global batch."""
    size, rest = divmod(global_batch_size, process_count)
    if rest or not size:
        raise BatchSizeError(
            f"the global batch size {global_batch_size} is not a multiple of the "
            f"{process_count} processes; choose one that is"
        )
    return range(process_index * size, (process_index + 1) * size)


def _batches(
    examples: grain.MapDataset[dict[str, Any]],
    batch_size: int,
    num_threads: int,
    num_workers: int,
) -> Generator[HostBatch, None, None]:
    if num_workers:
        # A worker makes whole batches, one at a time: they travel in shared memory,
        # which those in a buffer of its own would never give back.
        options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        workers = grain.MultiprocessingOptions(num_workers, per_worker_buffer_size=1)
        dataset = examples.batch(batch_size).to_iter_dataset(options)
        dataset = dataset.mp_prefetch(workers, worker_init_fn=_end_with_parent)
    else:
        # Threads share out examples, not batches, and fill two batches ahead: a short
        # wait for the first batch, and little memory.
        ahead = 2 * max(batch_size, num_threads)
        options = grain.ReadOptions(num_threads, prefetch_buffer_size=ahead)
        dataset = examples.to_iter_dataset(options).batch(batch_size)
    with contextlib.closing(iter(dataset)) as batches:
        while True:
            try:
                batch = next(batches, None)
            except RuntimeError as error:
                if "terminated unexpectedly" not in str(error):
                    raise
                raise WorkerDiedError(
                    f"one of data.num_workers={num_workers} processes has ended "
                    f"({error}). Killed (-9, -7), it is memory or /dev/shm that is "
                    "short: take fewer workers or a smaller batch. The same command "
                    "goes on from the last checkpoint"
                ) from None
            if batch is None:
                break
            # Shared memory is scarce: nothing that lasts longer should hold on to it.
            yield {k: np.array(v) for k, v in batch.items()} if num_workers else batch
    if num_workers:
        del batches, batch
        gc.collect()  # what the workers shared hangs in cycles of references
