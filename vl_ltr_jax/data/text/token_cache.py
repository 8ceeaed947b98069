"""Token ids of a large corpus, kept on disk from one run to the next.

A file is named after all that its ids depend on, so it is never out of date: other
sentences, another vocabulary or another context length make another file. Whichever of
several processes writes it, the content is the same: NumPy's format, and a checksum.
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
_LIBRARIES = ("ftfy", "regex", "tokenizers")  # whose releases may change ids
_HASHED_AT_ONCE = 16384


def default_directory() -> Path:
    """Where a user's caches lie: $XDG_CACHE_HOME/vl_ltr_jax or ~/.cache/vl_ltr_jax."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    # As its specification has it, a relative path there does not count.
    base = Path(named) if os.path.isabs(named) else Path("~/.cache").expanduser()
    return base / "vl_ltr_jax"


def encode(
    tokenizer: Tokenizer,
    sentences: Sequence[str],
    context_length: int,
    directory: str | os.PathLike[str] | None,
) -> Integer[np.ndarray, "S L"]:
    """The ids of sentences, from the directory where they lie there already.

    A file that is damaged is made anew. A directory that cannot be read or written is
    no reason to stop: a warning is logged, and nothing kept.

    Args:
        tokenizer: makes the ids.
        sentences: S sentences; fewer than `SMALLEST` are not kept.
        context_length: longest row, start and end included.
        directory: local, or a bucket such as gs://...; made if it does not exist. With
            '' or None nothing is kept.

    Returns:
        As `Tokenizer.encode` gives and `trim` cuts them. From a local disk the array is
        read only, and a page is read when it is first looked at.

    Raises:
        ValueError: `context_length` below 2.
    """
    if len(sentences) < SMALLEST:
        return trim(tokenizer.encode(sentences, context_length))
    if not directory:
        return _made(tokenizer, sentences, context_length)
    key = cache_key(tokenizer, sentences, context_length)
    path = epath.Path(os.path.expanduser(directory)) / f"tokens-{key}.npy"
    shape = len(sentences), context_length
    if (found := _read(path, tokenizer, shape)) is not None:
        return found
    tokens = _made(tokenizer, sentences, context_length)
    # Another process may have been faster.
    if (found := _read(path, tokenizer, shape)) is not None:
        return found
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


def _made(
    tokenizer: Tokenizer, sentences: Sequence[str], context_length: int
) -> Integer[np.ndarray, "S L"]:
    """The ids of many sentences; a log file tells what takes so long."""
    start = time.monotonic()
    console.say(f"{len(sentences):,} sentences become ids", stage="tokens")
    tokens = trim(tokenizer.encode(sentences, context_length))
    took = messages.format_duration(time.monotonic() - start)
    console.say(f"finished in {took}", stage="tokens")
    return tokens


def cache_key(
    tokenizer: Tokenizer, sentences: Sequence[str], context_length: int
) -> str:
    """Changes with whatever the ids of these sentences depend on."""
    versions = [importlib.metadata.version(library) for library in _LIBRARIES]
    made_with = (_FORMAT, *versions, platform.python_version(), tokenizer.digest)
    found = hashlib.sha256(repr((*made_with, context_length)).encode())
    for first in range(0, len(sentences), _HASHED_AT_ONCE):
        block = sentences[first : first + _HASHED_AT_ONCE]
        # The lengths tell where a sentence ends: no separator can be mistaken for text.
        found.update(np.fromiter(map(len, block), np.int64, len(block)).tobytes())
        found.update("".join(block).encode("utf-8", "surrogatepass"))
    return found.hexdigest()[:32]


def _read(
    path: epath.Path, tokenizer: Tokenizer, shape: tuple[int, int]
) -> Integer[np.ndarray, "S L"] | None:
    """The ids in a file; None where it is absent, or damaged and taken away."""
    try:
        if atomic.crc32(path) != atomic.SOUND:
            raise ValueError("it is not what was written")
        if "://" in os.fspath(path):
            loaded = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        else:
            loaded = np.load(os.fspath(path), mmap_mode="r", allow_pickle=False)
        return _checked(loaded, tokenizer, shape)
    except FileNotFoundError:
        return None
    except Exception as error:  # numpy reads the header with Python's own parser
        logging.info("%s is made anew: %s", path, error)
    with contextlib.suppress(Exception):  # else writing says why nothing is kept
        path.unlink()
    return None


def _checked(
    loaded: object, tokenizer: Tokenizer, shape: tuple[int, int]
) -> Integer[np.ndarray, "S L"]:
    if not isinstance(loaded, np.ndarray) or loaded.dtype != tokenizer.dtype:
        raise ValueError("it holds no token ids")
    if loaded.ndim != 2 or len(loaded) != shape[0] or loaded.shape[1] > shape[1]:
        raise ValueError(f"it holds an array of shape {loaded.shape}")
    # Parts that never reached the disk are zeros, but every sentence has an end.
    if not (loaded == tokenizer.vocab_size - 1).any(axis=1).all():
        raise ValueError("it holds sentences without an end")
    return loaded.view(np.ndarray)  # slices of a memory map are slow to make
