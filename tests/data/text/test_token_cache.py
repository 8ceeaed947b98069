"""Token ids on disk: read if they are right, written again if not."""

import importlib.metadata
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from etils import epath

from vl_ltr_jax.data.text import token_cache
from vl_ltr_jax.data.text.tokenizer import Tokenizer, trim
from vl_ltr_jax.data.text.vocabulary import read_vocabulary, write_tokenizer

SENTENCES = ("a bird", "an abacus", "", "!", "ab " * 9)
LENGTH = 32


@pytest.fixture(autouse=True)
def small_corpora_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_cache, "SMALLEST", len(SENTENCES))


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    write_tokenizer(tmp_path / "clip", [("a", "b"), ("i", "r")], vocab_size=516)
    return Tokenizer.from_directory(tmp_path / "clip")


@pytest.fixture
def expected(tokenizer: Tokenizer) -> np.ndarray:
    return trim(tokenizer.encode(SENTENCES, LENGTH))


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def the_file(directory: Path) -> Path:
    [name] = files(directory)
    assert name.startswith("tokens-") and name.endswith(".npy")
    return directory / name


def forbid_encoding(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(*arguments: Any) -> None:
        raise AssertionError("tokenised again")

    monkeypatch.setattr(tokenizer, "encode", encode)


def is_mapped(array: np.ndarray) -> bool:
    base: Any = array
    while base is not None and not isinstance(base, np.memmap):
        base = getattr(base, "base", None)
    return base is not None


def test_the_second_run_maps_the_file_of_the_first(
    tmp_path: Path,
    tokenizer: Tokenizer,
    expected: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Broken by: a key that changes from run to run, or tokens written untrimmed."""
    cache = tmp_path / "new" / "cache"
    first = token_cache.encode(tokenizer, SENTENCES, LENGTH, cache)
    again = Tokenizer.from_directory(tmp_path / "clip")
    forbid_encoding(again, monkeypatch)
    second = token_cache.encode(again, list(SENTENCES), LENGTH, str(cache))
    for tokens in (first, second):
        np.testing.assert_array_equal(tokens, expected)
        assert tokens.dtype == np.uint16
        assert type(tokens) is np.ndarray
    assert expected.shape == (5, 24)
    assert is_mapped(second) and not second.flags.writeable


def test_the_key_changes_with_all_that_ids_depend_on(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken by: sentences joined without their lengths, or by a character."""
    vocabulary, merges = read_vocabulary(tmp_path / "clip")
    other = Tokenizer(vocabulary, merges[::-1])

    def key(tokenizer: Tokenizer, *sentences: str, length: int = LENGTH) -> str:
        return token_cache.cache_key(tokenizer, sentences, length)

    keys = [
        key(tokenizer, "a", "b"),
        key(tokenizer, "ab"),
        key(tokenizer, "ab", ""),
        key(tokenizer, "", "ab"),
        key(tokenizer, "b", "a"),
        key(tokenizer, "a\0b"),
        key(tokenizer, "a\nb"),
        key(tokenizer, "A", "b"),
        key(tokenizer, "\ud800"),  # a lone surrogate, which UTF-8 lacks
        key(tokenizer, "a", "b", length=33),
        key(other, "a", "b"),
    ]
    monkeypatch.setattr(token_cache, "_FORMAT", 0)
    keys.append(key(tokenizer, "a", "b"))
    monkeypatch.undo()
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9")
    keys.append(key(tokenizer, "a", "b"))
    assert len(set(keys)) == len(keys)


def test_the_key_sees_every_sentence(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken by: a block of sentences that is left out, such as the last."""
    monkeypatch.setattr(token_cache, "_HASHED_AT_ONCE", 2)
    keys = set()
    for place in range(len(SENTENCES)):
        changed = [*SENTENCES[:place], "other", *SENTENCES[place + 1 :]]
        keys.add(token_cache.cache_key(tokenizer, changed, LENGTH))
    assert len(keys) == len(SENTENCES)


def saved(path: Path, array: Any) -> None:
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=True)


DAMAGES = {
    "truncated": lambda path, ids: path.write_bytes(path.read_bytes()[:-1]),
    "text": lambda path, ids: path.write_text("tokens"),
    "other type": lambda path, ids: saved(path, ids.astype(np.int32)),
    "other sentences": lambda path, ids: saved(path, ids[1:]),
    "a hole": lambda path, ids: saved(path, np.vstack([ids[:4], 0 * ids[:1]])),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_replaced(
    tmp_path: Path, tokenizer: Tokenizer, expected: np.ndarray, damage: str
) -> None:
    """Broken by: any header or size being believed."""
    cache = tmp_path / "cache"
    token_cache.encode(tokenizer, SENTENCES, LENGTH, cache)
    path = the_file(cache)
    content = path.read_bytes()
    DAMAGES[damage](path, expected)
    tokens = token_cache.encode(tokenizer, SENTENCES, LENGTH, cache)
    np.testing.assert_array_equal(tokens, expected)
    assert the_file(cache).read_bytes() == content


def test_a_process_that_was_faster_is_read(
    tmp_path: Path,
    tokenizer: Tokenizer,
    expected: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other, encode = Tokenizer.from_directory(tmp_path / "clip"), tokenizer.encode

    def slow(*arguments: Any) -> np.ndarray:
        token_cache.encode(other, SENTENCES, LENGTH, tmp_path / "cache")
        return encode(*arguments)

    monkeypatch.setattr(tokenizer, "encode", slow)
    tokens = token_cache.encode(tokenizer, SENTENCES, LENGTH, tmp_path / "cache")
    np.testing.assert_array_equal(tokens, expected)
    assert is_mapped(tokens)


class Bucket:
    """A backend that keeps the files of gs://bucket in a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._local = directory, epath.Path("/")._backend

    def __getattr__(self, name: str) -> Any:
        def call(*paths: str, **options: Any) -> Any:
            local = [p.replace("gs://bucket", str(self._directory)) for p in paths]
            return getattr(self._local, name)(*local, **options)

        return call


def test_buckets_hold_caches_too(
    tmp_path: Path,
    tokenizer: Tokenizer,
    expected: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Broken by: a memory map, a hard link or fsync where the file is no local one."""
    bucket = Bucket(tmp_path)
    path_type = type(epath.Path("gs://bucket"))
    monkeypatch.setattr(path_type, "_backend", property(lambda path: bucket))
    monkeypatch.setattr(os, "link", None)
    monkeypatch.setattr(os, "fsync", None)
    first = token_cache.encode(tokenizer, SENTENCES, LENGTH, "gs://bucket/cache")
    assert the_file(tmp_path / "cache")
    forbid_encoding(tokenizer, monkeypatch)
    second = token_cache.encode(tokenizer, SENTENCES, LENGTH, "gs://bucket/cache")
    np.testing.assert_array_equal(first, expected)
    np.testing.assert_array_equal(second, expected)
    assert not is_mapped(second)


@pytest.mark.parametrize("directory", ["", None, "file/cache"])
def test_ids_are_returned_without_a_usable_directory(
    tmp_path: Path,
    tokenizer: Tokenizer,
    expected: np.ndarray,
    directory: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    tokens = token_cache.encode(tokenizer, SENTENCES, LENGTH, directory)
    np.testing.assert_array_equal(tokens, expected)
    assert files(tmp_path) == ["clip", "file"]


def test_a_full_disk_leaves_nothing(
    tmp_path: Path,
    tokenizer: Tokenizer,
    expected: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Broken by: a partial file that stays, or that takes the name."""

    def full(file: Any, array: np.ndarray, **options: Any) -> None:
        file.write(b"part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    tokens = token_cache.encode(tokenizer, SENTENCES, LENGTH, tmp_path / "cache")
    np.testing.assert_array_equal(tokens, expected)
    assert not files(tmp_path / "cache")


def test_small_corpora_are_not_kept(tmp_path: Path, tokenizer: Tokenizer) -> None:
    token_cache.encode(tokenizer, SENTENCES[1:], LENGTH, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("variable", "base"), [("/big", "/big"), ("x", "/home/x/.cache")]
)
def test_default_directory(
    variable: str, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/x")
    monkeypatch.setenv("XDG_CACHE_HOME", variable)
    assert token_cache.default_directory() == Path(base) / "vl_ltr_jax"
