"""Labels of prepared records: beside the records, in a cache, or read from them.

Training needs the labels of all images before the first one, and a record has to be
read whole for its label: for half a million images that is minutes, once. A file with
labels names the records it belongs to, and is made anew for any others. Not in the
paper.
"""

import concurrent.futures
import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from etils import epath
from jaxtyping import Int32

from vl_ltr_jax.data.sources.dataset import ListError
from vl_ltr_jax.logs.console import Progress
from vl_ltr_jax.storage import atomic

_FORMAT = 1  # of the files with labels
_THREADS, _AT_ONCE = 16, 64
# Features in which data sets keep what an image's file was called.
_FILE_NAMES = ("file_name", "filename", "id")

Labels = tuple[Int32[np.ndarray, "N"], tuple[str, ...]]


def record_files(builder: Any, split: str) -> dict[str, tuple[int, int]]:
    """Size in bytes and time of change in ns of each file with records of a split.

    Raises:
      ListError: if one is missing.
    """
    with os.scandir(builder.data_path) as entries:
        there = {entry.name: entry for entry in entries}
    names = builder.info.splits[split].filenames
    if missing := [name for name in names if name not in there]:
        raise ListError(
            f"{len(missing)} of {len(names)} files of the split {split} are missing "
            f"from {builder.data_path}, the first {missing[0]}; copy or prepare the "
            "data set again"
        )
    stats = {name: there[name].stat() for name in names}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def read_labels(
    builder: Any,
    split: str,
    source: Any,
    cache_directory: str | os.PathLike[str] | None,
) -> Labels:
    """The label of every record, and what its file was called.

    Args:
      builder: of the data set.
      split: its name there.
      source: index to the features of a record; the image need not be decoded.
      cache_directory: local or a bucket; where labels are kept that had to be read from
        the records. A directory that cannot be used is no reason to stop: a warning is
        logged, and nothing kept. None or '': nowhere.

    Returns:
      int32 [N], as they were stored: -1 may mean that there is none; and N names, or
      none where the data set does not have them.

    Raises:
      ListError: if a file or a record cannot be read.
    """
    files = record_files(builder, split)
    beside = _beside(builder, split)
    if found := _read(beside, _key(builder, split, files), len(source)):
        return found
    where = f"{builder.info.full_name} {split}"
    if not cache_directory:
        return scan_labels(source, where)
    # The sizes of ArrayRecord files are rounded to 64 KiB and tell little. Times are no
    # good beside the records, where a copy would change them.
    key = _key(builder, split, files, with_times=True)
    cached = epath.Path(cache_directory) / f"labels-{key}.npz"
    if found := _read(cached, key, len(source)):
        return found
    found = scan_labels(source, where)
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        cached.unlink(missing_ok=True)  # it was of no use
        _write(cached, key, *found, shared=True)
    except Exception as error:  # buckets have errors of their own
        logging.warning(
            "The labels of %s are not kept: %s cannot be written (%s)",
            where,
            cached,
            error,
        )
    return found


def keep_labels(
    builder: Any,
    split: str,
    labels: Int32[np.ndarray, "N"],
    file_names: Sequence[str],
) -> None:
    """Writes the labels beside the records, which have to be there.

    Args:
      builder: of the data set.
      split: its name there.
      labels: class of each record.
      file_names: what each record's file was called, or nothing.

    Raises:
      ListError: if a file with records is missing.
      OSError: if the file cannot be written.
    """
    key = _key(builder, split, record_files(builder, split))
    _write(_beside(builder, split), key, labels, tuple(file_names))


def scan_labels(source: Any, where: str) -> Labels:
    """Reads every record for its label.

    Args:
      source: index to the features of a record.
      where: name, version and split, for progress and messages.

    Returns:
      As :func:`read_labels` does.

    Raises:
      ListError: if a record cannot be read.
    """

    def read(indices: range) -> list[tuple[int, str | None]]:
        return [_label(source, index, where) for index in indices]

    count = len(source)
    blocks = [
        range(first, min(first + _AT_ONCE, count))
        for first in range(0, count, _AT_ONCE)
    ]
    rows: list[tuple[int, str | None]] = []
    with (
        concurrent.futures.ThreadPoolExecutor(_THREADS) as pool,
        Progress(f"labels of {where}", count, "records") as line,
    ):
        for block in pool.map(read, blocks):
            rows += block
            line.update(len(block))
    names = tuple(name for _, name in rows if name is not None)
    labels = np.fromiter((label for label, _ in rows), np.int32, count)
    return labels, names if len(names) == count else ()


def _beside(builder: Any, split: str) -> epath.Path:
    return epath.Path(builder.data_path) / f"labels_{split}.npz"


def _key(
    builder: Any,
    split: str,
    files: Mapping[str, tuple[int, int]],
    with_times: bool = False,
) -> str:
    """Tells the records of a split from others."""
    count = builder.info.splits[split].num_examples
    found = hashlib.sha256(
        repr((_FORMAT, builder.info.full_name, split, count)).encode()
    )
    for name, (size, time) in sorted(files.items()):
        found.update(repr((name, size, time if with_times else None)).encode())
    return found.hexdigest()[:32]


def _label(source: Any, index: int, where: str) -> tuple[int, str | None]:
    try:
        record = source[index]
        label = int(record["label"])
    except Exception as error:  # of array_record and protobuf
        raise ListError(
            f"{where} record {index} cannot be read ({error}); copy or prepare the "
            "data set again"
        ) from None
    for feature in _FILE_NAMES:
        if isinstance(name := record.get(feature), bytes):
            return label, name.decode("utf-8", "replace").replace("\0", " ")
    return label, None


def _read(path: epath.Path, key: str, count: int) -> Labels | None:
    """The labels in a file, or None where it is absent or not of these records."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as content:
            if str(content["key"]) != key:
                raise ValueError("it belongs to other records")
            labels = content["labels"].astype(np.int32)
            text = content["file_names"].tobytes().decode()
    except FileNotFoundError:
        return None
    except Exception as error:  # zip files and numpy have errors of their own
        logging.info("%s is made anew: %s", path, error)
        return None
    file_names = tuple(text.split("\0")) if text else ()
    if labels.shape != (count,) or len(file_names) not in (0, count):
        logging.info("%s is made anew: it holds %s labels", path, labels.shape)
        return None
    return labels, file_names


def _write(
    path: epath.Path,
    key: str,
    labels: Int32[np.ndarray, "N"],
    file_names: tuple[str, ...],
    shared: bool = False,
) -> None:
    text = np.frombuffer("\0".join(file_names).encode(), np.uint8)
    with atomic.write(path, shared=shared) as file:
        np.savez_compressed(file, key=np.array(key), labels=labels, file_names=text)
