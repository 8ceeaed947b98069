"""Labels of prepared records, in a file next to them.

Training needs all labels before the first image, and a label costs the read of its
record: minutes for half a million images, once. A file with labels names its records,
and is replaced for other records. Not in the paper.
"""

import concurrent.futures
import hashlib
import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging
from etils import epath
from jaxtyping import Int32

from vl_ltr_jax.data.sources.faults import ListError
from vl_ltr_jax.logs.console import progress_bar
from vl_ltr_jax.storage import atomic

_FORMAT = 1  # of the files with labels
_THREADS, _BLOCK = 16, 64
# Features that hold the name of an image's file.
_FILE_NAMES = ("file_name", "filename", "id")

Labels = tuple[Int32[np.ndarray, "N"], tuple[str, ...]]


def read_labels(builder: Any, split: str, source: Any) -> Labels:
    """Returns the label of every record, and the name of its file.

    Labels that are read from records are written next to them. A directory that cannot
    be written costs the time again at the next start.

    Args:
      builder: of the data set.
      split: its name there.
      source: from an index to the features of a record.

    Returns:
      int32 [N], as stored: -1 may mean an absent label; and N names, or an empty tuple
      if the data set lacks them.

    Raises:
      ListError: a file or a record cannot be read.
    """
    path, key = _path_and_key(builder, split)
    if labels := _read(path, key, len(source)):
        return labels
    labels = scan_labels(source, f"{builder.info.full_name} {split}")
    try:
        path.unlink(missing_ok=True)
        _write(path, key, *labels, shared=True)
    except Exception as error:  # buckets have errors of their own
        logging.warning("%s cannot be written, and keeps no labels: %s", path, error)
    return labels


def keep_labels(
    builder: Any,
    split: str,
    labels: Int32[np.ndarray, "N"],
    file_names: Sequence[str],
) -> None:
    """Writes labels and names of files next to the records.

    Raises:
      ListError: a file with records is missing.
      OSError: the file cannot be written.
    """
    _write(*_path_and_key(builder, split), labels, tuple(file_names))


def scan_labels(source: Any, where: str) -> Labels:
    """Reads the labels from the records, see :func:`read_labels`.

    Args:
      source: from an index to the features of a record.
      where: name, version and split, for progress and messages.
    """

    def read(indices: range) -> list[tuple[int, str | None]]:
        return [_label(source, index, where) for index in indices]

    count = len(source)
    blocks = [
        range(first, min(first + _BLOCK, count)) for first in range(0, count, _BLOCK)
    ]
    rows: list[tuple[int, str | None]] = []
    with (
        concurrent.futures.ThreadPoolExecutor(_THREADS) as pool,
        progress_bar(f"labels of {where}", count, "records") as bar,
    ):
        for block in pool.map(read, blocks):
            rows += block
            bar.update(len(block))
    names = tuple(name for _, name in rows if name is not None)
    labels = np.fromiter((label for label, _ in rows), np.int32, count)
    return labels, names if len(names) == count else ()


def _path_and_key(builder: Any, split: str) -> tuple[epath.Path, str]:
    """Returns the file with the labels of a split, and a digest of its records."""
    with os.scandir(builder.data_path) as entries:
        sizes = {entry.name: entry.stat().st_size for entry in entries}
    names = builder.info.splits[split].filenames
    if missing := [name for name in names if name not in sizes]:
        raise ListError(
            f"{builder.data_path} lacks {len(missing)} of {len(names)} files of "
            f"{split}, the first {missing[0]}. Copy or prepare the data set again."
        )
    count = builder.info.splits[split].num_examples
    parts = [repr((_FORMAT, builder.info.full_name, split, count))]
    parts += [repr((name, sizes[name], None)) for name in sorted(names)]
    key = hashlib.sha256("".join(parts).encode()).hexdigest()[:32]
    return epath.Path(builder.data_path) / f"labels_{split}.npz", key


def _label(source: Any, index: int, where: str) -> tuple[int, str | None]:
    try:
        record = source[index]
        label = int(record["label"])
    except Exception as error:  # of array_record and protobuf
        raise ListError(
            f"{where} record {index} cannot be read ({error}). Copy or prepare the "
            "data set again."
        ) from None
    for feature in _FILE_NAMES:
        if isinstance(name := record.get(feature), bytes):
            return label, name.decode("utf-8", "replace").replace("\0", " ")
    return label, None


def _read(path: epath.Path, key: str, count: int) -> Labels | None:
    """Returns the labels in a file, or None if it is not of these records."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as content:
            if str(content["key"]) != key:
                raise ValueError("it names other records")
            labels = content["labels"].astype(np.int32)
            text = content["file_names"].tobytes().decode()
            file_names = tuple(text.split("\0")) if text else ()
            if labels.shape != (count,) or len(file_names) not in (0, count):
                raise ValueError(f"it holds {labels.shape} labels")
    except FileNotFoundError:
        return None
    except Exception as error:  # zip files and numpy have errors of their own
        logging.info("%s is replaced: %s", path, error)
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
