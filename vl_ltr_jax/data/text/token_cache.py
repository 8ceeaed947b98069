"""Token ids of a large corpus, kept on disk from one run to the next.

The name of a file depends on sentences, vocabulary and context length, so a file is
never out of date. Every process writes the same content: NumPy's format and a checksum.
"""

import contextlib
import hashlib
import importlib.metadata
import io
import os
import platform
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import logging
from etils import epath
from jaxtyping import Integer

from vl_ltr_jax.data.text.tokenizer import Tokenizer, trim
from vl_ltr_jax.logs import console, messages
from vl_ltr_jax.storage import atomic

SMALLEST = 20_000  # sentences worth a file: fewer take less than a second
_FORMAT = 2  # of the file and of the key
_LIBRARIES = ("ftfy", "regex", "tokenizers")  # a release may change ids
_HASHED_AT_ONCE = 16384


def default_directory() -> Path:
    """Returns $XDG_CACHE_HOME/vl_ltr_jax or ~/.cache/vl_ltr_jax."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # Its specification ignores relative paths.
    return Path(base if os.path.isabs(base) else "~/.cache").expanduser() / "vl_ltr_jax"


def encode(
    tokenizer: Tokenizer,
    sentences: Sequence[str],
    context_length: int,
    directory: str | os.PathLike[str] | None,
) -> Integer[np.ndarray, "S L"]:
    """Returns the ids of sentences, from a file if there is one.

    A damaged file is replaced. If the directory cannot be read or written, a warning is
    logged and the ids are kept nowhere.

    Args:
      tokenizer: source of the ids.
      sentences: S sentences; fewer than `SMALLEST` are not kept.
      context_length: longest row, start and end included.
      directory: local, or a bucket such as gs://...; created if absent. '' or None
        keeps nothing.

    Returns:
      Rows of `Tokenizer.encode`, cut by `trim`. From a local disk the array is read
      only and memory-mapped.

    Raises:
      ValueError: `context_length` is below 2.
    """
    if len(sentences) < SMALLEST:
        return trim(tokenizer.encode(sentences, context_length))
    if not directory:
        return _encoded(tokenizer, sentences, context_length)
    key = cache_key(tokenizer, sentences, context_length)
    path = epath.Path(os.path.expanduser(directory)) / f"tokens-{key}.npy"
    shape = len(sentences), context_length
    if (stored := _load(path, tokenizer, shape)) is not None:
        return stored
    tokens = _encoded(tokenizer, sentences, context_length)
    # Another process may have been faster.
    if (stored := _load(path, tokenizer, shape)) is not None:
        return stored
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic.write(path, shared=True) as file:
            content = io.BytesIO()
            np.save(content, np.ascontiguousarray(tokens), allow_pickle=False)
            file.write(content.getbuffer())
            file.write(zlib.crc32(content.getbuffer()).to_bytes(4, "little"))
    except Exception as error:  # buckets have errors of their own
        logging.warning(
            "The token ids of %d sentences are not kept: %s cannot be written (%s)",
            len(sentences),
            path,
            error,
        )
    return tokens


def _encoded(
    tokenizer: Tokenizer, sentences: Sequence[str], context_length: int
) -> Integer[np.ndarray, "S L"]:
    """Returns the ids of many sentences, and logs the time they took."""
    start = time.monotonic()
    console.say(f"{len(sentences):,} sentences become ids", stage="tokens")
    tokens = trim(tokenizer.encode(sentences, context_length))
    took = messages.format_duration(time.monotonic() - start)
    console.say(f"finished in {took}", stage="tokens")
    return tokens


def cache_key(
    tokenizer: Tokenizer, sentences: Sequence[str], context_length: int
) -> str:
    """Returns a digest of everything that the ids of sentences depend on."""
    versions = [importlib.metadata.version(library) for library in _LIBRARIES]
    parts = (_FORMAT, *versions, platform.python_version(), tokenizer.digest)
    digest = hashlib.sha256(repr((*parts, context_length)).encode())
    for first in range(0, len(sentences), _HASHED_AT_ONCE):
        block = sentences[first : first + _HASHED_AT_ONCE]
        # Lengths in place of separators, which could be mistaken for text.
        digest.update(np.fromiter(map(len, block), np.int64, len(block)).tobytes())
        digest.update("".join(block).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]


def _load(
    path: epath.Path, tokenizer: Tokenizer, shape: tuple[int, int]
) -> Integer[np.ndarray, "S L"] | None:
    """Returns the ids in a file; None if it is absent, or damaged and removed."""
    try:
        if atomic.crc32(path) != atomic.SOUND:
            raise ValueError("it is not what was written")
        if "://" in os.fspath(path):
            loaded = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        else:
            loaded = np.load(os.fspath(path), mmap_mode="r", allow_pickle=False)
        fits = loaded.dtype == tokenizer.dtype and loaded.ndim == 2
        if not fits or len(loaded) != shape[0] or loaded.shape[1] > shape[1]:
            raise ValueError(f"it holds {loaded.dtype}{loaded.shape}, not the ids")
        # Blocks that never reached the disk are zeros, but every sentence has an end.
        if not (loaded == tokenizer.vocab_size - 1).any(axis=1).all():
            raise ValueError("it holds sentences without an end")
        return loaded.view(np.ndarray)  # slices of a memory map are slow to make
    except FileNotFoundError:
        return None
    except Exception as error:  # numpy reads the header with Python's own parser
        logging.info("%s is written again: %s", path, error)
    with contextlib.suppress(Exception):  # the write that follows reports the fault
        path.unlink()
    return None
