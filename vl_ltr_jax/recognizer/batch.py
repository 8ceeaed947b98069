"""Files to answers: decoded ahead by threads, recognised together, told in order."""

import collections
import contextlib
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
    """What became of a file.

    Attributes:
      path: as it was given.
      explanation: what was recognised, or None.
      error: why nothing was, or empty.
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
    num_threads: int | None = None,
) -> Generator[FileResult, None, None]:
    """Recognises files one after the other; threads decode ahead of the device.

    Args:
      recognizer: the model.
      files: read as they are needed; a million take no memory.
      top_k: classes of each picture.
      num_sentences: sentences for the first of them.
      batch_size: pictures that are recognised together. The first goes alone, so that
        its answer is soon there.
      num_threads: that decode; None: as many as there are cores.

    Yields:
      An answer for each file, in the order given.
    """
    num_threads = num_threads or len(os.sched_getaffinity(0))
    batch: list[tuple[str, np.ndarray | str]] = []
    limit, pictures = 1, 0

    def answered() -> Iterator[FileResult]:
        pixels = [made for _, made in batch if not isinstance(made, str)]
        explained = iter(
            recognizer.explain_pixels(np.stack(pixels), top_k, num_sentences)
            if pixels
            else ()
        )
        for path, made in batch:
            if isinstance(made, str):
                yield FileResult(path, error=made)
                continue
            explanation = next(explained)
            if np.isfinite(explanation.prediction.probabilities).all():
                yield FileResult(path, explanation)
            else:
                yield FileResult(path, error="the model gives no numbers for it")

    ahead = 2 * batch_size + num_threads
    decoded = _decoded(recognizer, files, num_threads, ahead)
    with contextlib.closing(decoded):
        for path, made in decoded:
            batch.append((path, made))
            pictures += not isinstance(made, str)
            if pictures == limit or len(batch) > batch_size:
                yield from answered()
                limit = batch_size if pictures else limit
                batch, pictures = [], 0
        yield from answered()


def _decoded(
    recognizer: Recognizer,
    files: Iterable[PictureFile],
    num_threads: int,
    ahead: int,
) -> Generator[tuple[str, np.ndarray | str], None, None]:
    """Pixels of each file, or why there are none; some files ahead of the reader."""
    orientation = recognizer.card.orientation

    def pixels(path: str, error: str) -> np.ndarray | str:
        if error:
            return error
        try:
            content = decode.read_content(Path(path), path)
            picture = decode.decode_image(content, path, orientation)
            return recognizer.transform(picture)
        except decode.ImageReadError as unreadable:
            return unreadable.reason
        except (ValueError, MemoryError) as fault:
            return str(fault) or type(fault).__name__

    pool = ThreadPoolExecutor(num_threads)
    waiting: collections.deque[tuple[str, Future[np.ndarray | str]]]
    waiting = collections.deque()
    try:
        for path, error in files:
            waiting.append((path, pool.submit(pixels, path, error)))
            if len(waiting) == ahead:
                path, task = waiting.popleft()
                yield path, task.result()
        while waiting:
            path, task = waiting.popleft()
            yield path, task.result()
    finally:
        pool.shutdown(cancel_futures=True)
