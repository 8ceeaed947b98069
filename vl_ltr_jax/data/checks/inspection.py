"""Every image of a data set read, hashed and decoded once, by threads.

Each result is appended to a file at once, as a line of JSON. The next inspection takes
a line if the file's size and time of change are the same. So an interrupted inspection
resumes, and a changed file is read again.
"""

import collections
import hashlib
import itertools
import json
import os
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
from jaxtyping import UInt8

from vl_ltr_jax.data.images.decode import as_image, asks_for_turn
from vl_ltr_jax.data.sources.dataset import Split
from vl_ltr_jax.data.sources.faults import Classes, Finding, Kind, Offender, gather
from vl_ltr_jax.logs.console import progress_bar

MIN_SIDE = 8  # pixels
MAX_ASPECT = 32  # the middle square keeps 3 percent
_KINDS = (
    Kind(
        "image-unreadable",
        "error",
        "images that cannot be decoded",
        "replace the files, or remove their rows from the lists",
    ),
    Kind(
        "image-tiny",
        "warning",
        f"pictures with fewer than {MIN_SIDE} pixels a side",
        "look at them: an icon in place of a photograph teaches nothing",
    ),
    Kind(
        "image-narrow",
        "warning",
        f"pictures more than {MAX_ASPECT} times as long as wide",
        "crop them: a square crop keeps next to nothing of them",
    ),
    Kind(
        "image-one-colour",
        "warning",
        "pictures of one colour",
        "look at them: they may stand for photographs that were withdrawn",
    ),
)
_CHUNK = 32  # images of a thread's task, and lines written at once


class ImageFacts(NamedTuple):
    """Facts of an image.

    Attributes:
      size: bytes of the file; 0 without a file.
      mtime_ns: its time of change, in nanoseconds.
      sha256: of the file's bytes, or of pixels made in memory; 32 bytes.
      width: in pixels; 0 if it cannot be decoded.
      height: in pixels; 0 if it cannot be decoded.
      one_colour: True if all its pixels are equal.
      error: reason that it cannot be decoded, or empty.
      turn: True if its metadata ask for a turn.
    """

    size: int
    mtime_ns: int
    sha256: bytes
    width: int = 0
    height: int = 0
    one_colour: bool = False
    error: str = ""
    turn: bool = False


class _Job(NamedTuple):
    """An image to inspect; only files have a path."""

    path: str | None
    split: Split
    row: int


def inspect(
    splits: Mapping[str, Split], *, num_threads: int, ledger: Path | None = None
) -> dict[str, list[ImageFacts]]:
    """Inspects every image of the splits; an image of several splits, once.

    Args:
      splits: by name.
      num_threads: threads that read and decode.
      ledger: file of earlier results, under absolute paths; None keeps no results.

    Returns:
      Facts of the images of each split.
    """
    keys: dict[str, list[Hashable]] = {name: [] for name in splits}
    jobs: dict[Hashable, _Job] = {}
    for name, split in splits.items():
        for row in range(len(split)):
            path = split.path and os.path.abspath(split.path(row))
            key = path or (id(split), row)
            keys[name].append(key)
            jobs.setdefault(key, _Job(path, split, row))
    known = read_ledger(ledger) if ledger else {}
    facts: dict[Hashable, ImageFacts] = {}

    def inspect_all(chunk: Sequence[Hashable]) -> dict[Hashable, ImageFacts]:
        return {key: _inspect(jobs[key], known) for key in chunk}

    pool = ThreadPoolExecutor(num_threads)
    file = _open(ledger) if ledger else None
    try:
        with progress_bar("check", len(jobs), "images") as progress:
            for results in pool.map(inspect_all, _chunks(jobs)):
                facts |= results
                if file is not None:
                    _append(file, results, known)
                progress.update(len(results))
    finally:
        pool.shutdown(cancel_futures=True)
        if file is not None:
            file.close()
    return {name: [facts[key] for key in own] for name, own in keys.items()}


def read_ledger(path: Path) -> dict[str, ImageFacts]:
    """Returns the facts of an earlier inspection, by absolute path.

    Incomplete lines, as of a process that was killed, are skipped: their images are
    inspected again.
    """
    known: dict[str, ImageFacts] = {}
    if not path.exists():
        return known
    with path.open("rb") as lines:
        for line in lines:
            try:
                fields: dict[str, Any] = json.loads(line)
                name = fields.pop("path")
                digest = bytes.fromhex(fields.pop("sha256"))
                known[name] = ImageFacts(sha256=digest, **fields)
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
    return known


def _chunks(keys: Iterable[Hashable]) -> Iterator[list[Hashable]]:
    keys = iter(keys)
    while chunk := list(itertools.islice(keys, _CHUNK)):
        yield chunk


def _inspect(job: _Job, known: Mapping[str, ImageFacts]) -> ImageFacts:
    size, changed, digest = 0, 0, b""
    try:
        if job.path is not None:
            # Before reading: if the file changes meanwhile, the next check notices.
            status = os.stat(job.path)
            size, changed = status.st_size, status.st_mtime_ns
            before = known.get(job.path)
            if before and before[:2] == (size, changed) and not before.error:
                return before
        fetched = job.split.fetch(job.row)
        content = fetched if isinstance(fetched, bytes) else b""
        digest = hashlib.sha256(content).digest()
        pixels = np.asarray(as_image(job.split.decode(job.row, fetched)))
        turn = bool(content) and asks_for_turn(content)
        if not isinstance(fetched, bytes):
            content = repr(pixels.shape).encode() + pixels.tobytes()
            digest = hashlib.sha256(content).digest()
    except (OSError, ValueError) as error:
        reason = _reason(str(error), job.split.describe(job.row))
        return ImageFacts(size, changed, digest, error=reason)
    height, width = pixels.shape[:2]
    one_colour = _is_one_colour(pixels)
    return ImageFacts(size, changed, digest, width, height, one_colour, turn=turn)


def _is_one_colour(pixels: UInt8[np.ndarray, "H W 3"]) -> bool:
    first = pixels[0, 0]
    # A few pixels decide for nearly all pictures.
    return bool((pixels[::16, ::16] == first).all() and (pixels == first).all())


def _reason(message: str, description: str) -> str:
    """Returns an error of `decode` without the image and the advice."""
    return message.split(f"{description}: ")[-1].split(". Replace the file")[0]


def _open(ledger: Path) -> TextIO:
    ledger.parent.mkdir(parents=True, exist_ok=True)
    cut_off = ledger.exists() and not ledger.read_bytes().endswith(b"\n")
    file = ledger.open("a", encoding="utf-8")
    if cut_off:  # a line that a kill cut off must not spoil the next one
        file.write("\n")
    return file


def _append(
    file: TextIO, facts: Mapping[Hashable, ImageFacts], known: Mapping[str, ImageFacts]
) -> None:
    """Writes new facts of files."""
    for path, image in facts.items():
        if isinstance(path, str) and known.get(path) is not image:
            fields = {"path": path, **image._asdict(), "sha256": image.sha256.hex()}
            file.write(f"{json.dumps(fields)}\n")
    file.flush()


def findings(
    splits: Mapping[str, Split],
    images: Mapping[str, Sequence[ImageFacts]],
    classes: Classes,
) -> list[Finding]:
    """Returns images that cannot be decoded, and pictures with little content.

    Args:
      splits: by name.
      images: returned by :func:`inspect`.
      classes: names for the report.
    """
    rows: dict[str, dict[Hashable, tuple[Split, int, str]]] = collections.defaultdict(
        dict
    )
    for name, split in splits.items():
        for index, image in enumerate(images[name]):
            for code, note in _faults(image):
                key = (split.path and split.path(index)) or (id(split), index)
                rows[code].setdefault(key, (split, index, note))

    def offender(row: tuple[Split, int, str]) -> Offender:
        split, index, note = row
        return classes.offender(split.describe(index), int(split.labels[index]), note)

    return [
        finding
        for kind in _KINDS
        for finding in gather(kind, list(rows[kind.code].values()), offender)
    ]


def _faults(image: ImageFacts) -> Iterator[tuple[str, str]]:
    """Yields kind and note of each fault."""
    if image.error:
        yield "image-unreadable", image.error
        return
    short, long = sorted((image.width, image.height))
    size = f"{image.width} x {image.height} pixels"
    if short < MIN_SIDE:
        yield "image-tiny", size
    if long > MAX_ASPECT * short:
        yield "image-narrow", size
    if image.one_colour:
        yield "image-one-colour", size
