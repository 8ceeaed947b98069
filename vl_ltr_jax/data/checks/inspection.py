"""Every image of a data set read, hashed and decoded once, by threads.

What was found is appended to a file, a line of JSON for each image, as soon as it is
known. The next inspection believes a line while the file's size and time of change are
the same, so one that was interrupted goes on, and a changed file is looked at again.
"""

import collections
import hashlib
import itertools
import json
import os
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
from jaxtyping import UInt8

from vl_ltr_jax.data.checks.findings import Classes, Finding, Kind, Offender, gather
from vl_ltr_jax.data.images.decode import as_image, asks_for_turn
from vl_ltr_jax.data.sources.dataset import Split
from vl_ltr_jax.logs.console import Progress

SMALLEST_SIDE = 8  # pixels
LARGEST_ASPECT = 32  # of which the middle square keeps 3 percent
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
        f"pictures with fewer than {SMALLEST_SIDE} pixels a side",
        "look at them: an icon in place of a photograph teaches nothing",
    ),
    Kind(
        "image-narrow",
        "warning",
        f"pictures more than {LARGEST_ASPECT} times as long as wide",
        "crop them: a square crop keeps next to nothing of them",
    ),
    Kind(
        "image-one-colour",
        "warning",
        "pictures of one colour",
        "look at them: they may stand for photographs that were withdrawn",
    ),
)
_CHUNK = 32  # images that a thread takes at a time, and lines written at once


class Seen(NamedTuple):
    """What an image was found to be.

    Attributes:
      size: bytes of the file; 0 where there is none.
      mtime_ns: its time of change, in nanoseconds.
      sha256: of the file's bytes, or of pixels made in memory; 32 bytes.
      width: in pixels; 0 if it cannot be decoded.
      height: in pixels; 0 if it cannot be decoded.
      one_colour: whether all its pixels are equal.
      error: why it cannot be decoded, or empty.
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
    """An image to look at, and what is known of it; only files have a path."""

    path: str | None
    split: Split
    row: int


def inspect(
    splits: Mapping[str, Split], *, num_threads: int, ledger: Path | None = None
) -> dict[str, list[Seen]]:
    """Looks at every image of the splits; one that is in several, once.

    Args:
      splits: by name.
      num_threads: that read and decode.
      ledger: file of what is known; None keeps nothing. Only images that are files are
        remembered, under their absolute paths.

    Returns:
      For each split, what each of its images was found to be.
    """
    keys: dict[str, list[Hashable]] = {name: [] for name in splits}
    todo: dict[Hashable, _Job] = {}
    for name, split in splits.items():
        for row in range(len(split)):
            path = split.path and os.path.abspath(split.path(row))
            key = path or (id(split), row)
            keys[name].append(key)
            todo.setdefault(key, _Job(path, split, row))
    known = read_ledger(ledger) if ledger else {}
    seen: dict[Hashable, Seen] = {}
    pool = ThreadPoolExecutor(num_threads)
    waiting: collections.deque[Future[list[Seen]]] = collections.deque()
    chunks, looked_at = _chunks(todo), _chunks(todo)
    file = _opened(ledger)
    try:
        with Progress("check", len(todo), "images") as progress:
            while True:
                for chunk in itertools.islice(chunks, 2 * num_threads - len(waiting)):
                    jobs = [todo[key] for key in chunk]
                    waiting.append(pool.submit(_look_at_all, jobs, known))
                if not waiting:
                    break
                found, chunk = waiting.popleft().result(), next(looked_at)
                seen |= zip(chunk, found, strict=True)
                if file is not None:
                    _append(file, {key: seen[key] for key in chunk}, known)
                progress.update(len(chunk))
    finally:
        pool.shutdown(cancel_futures=True)
        if file is not None:
            file.close()
    return {name: [seen[key] for key in of] for name, of in keys.items()}


def read_ledger(path: Path) -> dict[str, Seen]:
    """What an earlier inspection found, by absolute path.

    Lines that are not whole, such as the last one of a process that was killed, are
    passed over: their images are looked at again.
    """
    known: dict[str, Seen] = {}
    if not path.exists():
        return known
    with path.open("rb") as lines:
        for line in lines:
            try:
                fields: dict[str, Any] = json.loads(line)
                name = fields.pop("path")
                digest = bytes.fromhex(fields.pop("sha256"))
                known[name] = Seen(sha256=digest, **fields)
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
    return known


def _chunks(keys: Iterable[Hashable]) -> Iterator[list[Hashable]]:
    keys = iter(keys)
    while chunk := list(itertools.islice(keys, _CHUNK)):
        yield chunk


def _look_at_all(jobs: Sequence[_Job], known: Mapping[str, Seen]) -> list[Seen]:
    return [_look_at(job, known) for job in jobs]


def _look_at(job: _Job, known: Mapping[str, Seen]) -> Seen:
    size, changed, digest = 0, 0, b""
    try:
        if job.path is not None:
            # Before reading: if the file is changed meanwhile, the next check sees it.
            status = os.stat(job.path)
            size, changed = status.st_size, status.st_mtime_ns
            before = known.get(job.path)
            if before and before[:2] == (size, changed) and not before.error:
                return before
        fetched = job.split.fetch(job.row)
        if isinstance(fetched, bytes):
            digest = hashlib.sha256(fetched).digest()
        pixels = np.asarray(as_image(job.split.decode(job.row, fetched)))
        turn = isinstance(fetched, bytes) and asks_for_turn(fetched)
        if not isinstance(fetched, bytes):
            content = repr(pixels.shape).encode() + pixels.tobytes()
            digest = hashlib.sha256(content).digest()
    except (OSError, ValueError) as error:
        reason = _reason(str(error), job.split.describe(job.row))
        return Seen(size, changed, digest, error=reason)
    height, width = pixels.shape[:2]
    one_colour = _one_colour(pixels)
    return Seen(size, changed, digest, width, height, one_colour, turn=turn)


def _one_colour(pixels: UInt8[np.ndarray, "H W 3"]) -> bool:
    first = pixels[0, 0]
    # Of nearly all pictures, a few pixels tell.
    return bool((pixels[::16, ::16] == first).all() and (pixels == first).all())


def _reason(message: str, description: str) -> str:
    """What `images` says is wrong, without the image and the advice."""
    return message.split(f"{description}: ")[-1].split(". Replace the file")[0]


def _opened(ledger: Path | None) -> TextIO | None:
    if ledger is None:
        return None
    ledger.parent.mkdir(parents=True, exist_ok=True)
    cut_off = False
    if ledger.exists() and ledger.stat().st_size:
        with ledger.open("rb") as before:
            before.seek(-1, os.SEEK_END)
            cut_off = before.read() != b"\n"
    file = ledger.open("a", encoding="utf-8")
    if cut_off:  # what a kill left of a line shall not spoil the next one
        file.write("\n")
    return file


def _append(
    file: TextIO, seen: Mapping[Hashable, Seen], known: Mapping[str, Seen]
) -> None:
    """Writes what is new of files, whole lines at a time."""
    for path, image in seen.items():
        if isinstance(path, str) and known.get(path) is not image:
            fields = {"path": path, **image._asdict(), "sha256": image.sha256.hex()}
            file.write(f"{json.dumps(fields)}\n")
    file.flush()


def findings(
    splits: Mapping[str, Split], seen: Mapping[str, Sequence[Seen]], classes: Classes
) -> list[Finding]:
    """Images that cannot be decoded, and pictures that show next to nothing.

    Args:
      splits: by name.
      seen: what :func:`inspect` returned for them.
      classes: names for the report.
    """
    told: set[Hashable] = set()
    found: dict[str, list[tuple[Split, int, str]]] = collections.defaultdict(list)
    for name, split in splits.items():
        for index, image in enumerate(seen[name]):
            for code, note in _faults(image):
                path = split.path and split.path(index)
                key = (code, path or (id(split), index))
                if key not in told:
                    told.add(key)
                    found[code].append((split, index, note))

    def offender(row: tuple[Split, int, str]) -> Offender:
        split, index, note = row
        return classes.offender(split.describe(index), int(split.labels[index]), note)

    return [
        finding
        for kind in _KINDS
        for finding in gather(kind, found[kind.code], offender)
    ]


def _faults(image: Seen) -> Iterator[tuple[str, str]]:
    """Kind and note of each fault."""
    if image.error:
        yield "image-unreadable", image.error
        return
    short, long = sorted((image.width, image.height))
    size = f"{image.width} x {image.height} pixels"
    if short < SMALLEST_SIDE:
        yield "image-tiny", size
    if long > LARGEST_ASPECT * short:
        yield "image-narrow", size
    if image.one_colour:
        yield "image-one-colour", size
