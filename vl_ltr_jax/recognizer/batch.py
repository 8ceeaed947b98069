"""Recognition of many files: threads decode ahead of the device."""

import collections
import contextlib
import itertools
import os
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vl_ltr_jax.data.images import decode
from vl_ltr_jax.data.images.picture_folders import PictureFile
from vl_ltr_jax.recognizer.predictions import Explanation
from vl_ltr_jax.recognizer.recognizer import Recognizer


class FileResult(NamedTuple):
    """The explanation of a file, or the reason why there is no explanation.

    Attributes:
      path: as the caller wrote it.
      explanation: prediction and sentences.
      error: fault of the file; empty if it was recognised.
    """

    path: str
    explanation: Explanation | None = None
    error: str = ""


def recognize_files(
    recognizer: Recognizer,
    files: Iterable[PictureFile],
    *,
    top_k: int = 5,
    num_sentences: int = 3,
    batch_size: int = 64,
) -> Generator[FileResult, None, None]:
    """Recognises files in order.

    Args:
      recognizer: the model.
      files: paths; consumed lazily, so that a million take no memory.
      top_k: classes of each picture.
      num_sentences: sentences of the first class.
      batch_size: pictures in a batch. The first has its own, to be printed soon.

    Yields:
      A result for each file.
    """
    batch: list[tuple[str, np.ndarray | str]] = []

    def results() -> Iterator[FileResult]:
        pixels = [decoded for _, decoded in batch if not isinstance(decoded, str)]
        explanations = iter(
            recognizer.explain_pixels(np.stack(pixels), top_k, num_sentences)
            if pixels
            else ()
        )
        for path, decoded in batch:
            if isinstance(decoded, str):
                yield FileResult(path, error=decoded)
                continue
            explanation = next(explanations)
            if np.isfinite(explanation.prediction.probabilities).all():
                yield FileResult(path, explanation)
            else:
                yield FileResult(path, error="its probabilities are not finite")

    limit, num_pictures = 1, 0
    with contextlib.closing(_decode(recognizer, files, 2 * batch_size)) as pairs:
        for pair in pairs:
            batch.append(pair)
            num_pictures += not isinstance(pair[1], str)
            if num_pictures == limit or len(batch) > batch_size:
                yield from results()
                limit = batch_size if num_pictures else limit
                batch, num_pictures = [], 0
        yield from results()


def _decode(
    recognizer: Recognizer, files: Iterable[PictureFile], ahead: int
) -> Generator[tuple[str, np.ndarray | str], None, None]:
    """Yields path and pixels, or the fault, of each file; decodes `ahead` files."""

    def pixels(path: str, error: str) -> np.ndarray | str:
        if error:
            return error
        try:
            content = decode.read_content(Path(path), path)
            orientation = recognizer.card.orientation
            picture = decode.decode_image(content, path, orientation)
            return recognizer.transform(picture)
        except decode.ImageReadError as unreadable:
            return unreadable.reason
        except (ValueError, MemoryError) as fault:
            return str(fault) or type(fault).__name__

    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
    tasks: collections.deque[tuple[str, Future[np.ndarray | str]]]
    tasks = collections.deque()
    try:
        for file in itertools.chain(files, itertools.repeat(None, ahead)):
            if file is not None:
                tasks.append((file.path, pool.submit(pixels, *file)))
            if tasks and (file is None or len(tasks) == ahead):
                path, task = tasks.popleft()
                yield path, task.result()
    finally:
        pool.shutdown(cancel_futures=True)
