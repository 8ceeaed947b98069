"""Token ids on disk: read if they are right, written again if not."""

import importlib.metadata
import os

import numpy as np
import pytest
from etils import epath

from vl_ltr_jax.data.text import token_cache
from vl_ltr_jax.data.text.tokenizer import Tokenizer, trim
from vl_ltr_jax.data.text.vocabulary import read_vocabulary, write_tokenizer

SENTENCES = ("a bird", "an abacus", "", "!", "ab " * 9)
LENGTH = 32


@pytest.fixture(autouse=True)
def small_corpora_count(monkeypatch):
    monkeypatch.setattr(token_cache, "SMALLEST", len(SENTENCES))


@pytest.fixture
def tokenizer(tmp_path):
    write_tokenizer(tmp_path / "clip", [("a", "b"), ("i", "r")], vocab_size=516)
    return Tokenizer.from_directory(tmp_path / "clip")


@pytest.fixture
def expected(tokenizer):
    return trim(tokenizer.encode(SENTENCES, LENGTH))


def files(directory):
    return sorted(path.name for path in directory.iterdir())


def the_file(directory):
    [name] = files(directory)
    assert name.startswith("tokens-") and name.endswith(".npy")
    return directory / name


def forbid_encoding(tokenizer, monkeypatch):
    def encode(*arguments):
        raise AssertionError("tokenised again")

    monkeypatch.setattr(tokenizer, "encode", encode)


def is_mapped(array):
    base = array
    while base is not None and not isinstance(base, np.memmap):
        base = getattr(base, "base", None)
    return base is not None


def test_the_second_run_maps_the_file_of_the_first(
    tmp_path, tokenizer, expected, monkeypatch
):
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


def test_the_key_changes_with_all_that_ids_depend_on(tmp_path, tokenizer, monkeypatch):
    """Broken by: sentences joined without their lengths, or by a character."""
    vocabulary, merges = read_vocabulary(tmp_path / "clip")
    other = Tokenizer(vocabulary, merges[::-1])
    swapped = vocabulary | {"a": vocabulary["b"], "b": vocabulary["a"]}

    def key(tokenizer, *sentences, length=LENGTH):
        return token_cache.cache_key(tokenizer, sentences, length)

    corpora = [["a", "b"], ["ab"], ["ab", ""], ["", "ab"], ["b", "a"], ["a\0b"]]
    corpora += [["\ud800"]]  # a lone surrogate, which UTF-8 lacks
    corpora += [["-"] * n + ["x"] + ["-"] * (4 - n) for n in range(5)]  # three blocks
    monkeypatch.setattr(token_cache, "_HASHED_AT_ONCE", 2)
    keys = [key(tokenizer, *corpus) for corpus in corpora]
    keys += [key(tokenizer, "a", "b", length=33), key(other, "a", "b")]
    keys.append(key(Tokenizer(swapped, merges), "a", "b"))
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9")
    keys.append(key(tokenizer, "a", "b"))
    assert len(set(keys)) == len(keys)


def saved(path, array):
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
def test_a_damaged_file_is_replaced(tmp_path, tokenizer, expected, damage):
    """Broken by: any header or size being believed."""
    cache = tmp_path / "cache"
    token_cache.encode(tokenizer, SENTENCES, LENGTH, cache)
    path = the_file(cache)
    content = path.read_bytes()
    DAMAGES[damage](path, expected)
    tokens = token_cache.encode(tokenizer, SENTENCES, LENGTH, cache)
    np.testing.assert_array_equal(tokens, expected)
    assert the_file(cache).read_bytes() == content


def test_a_process_that_was_faster_is_read(tmp_path, tokenizer, expected, monkeypatch):
    other, encode = Tokenizer.from_directory(tmp_path / "clip"), tokenizer.encode

    def slow(*arguments):
        token_cache.encode(other, SENTENCES, LENGTH, tmp_path / "cache")
        return encode(*arguments)

    monkeypatch.setattr(tokenizer, "encode", slow)
    tokens = token_cache.encode(tokenizer, SENTENCES, LENGTH, tmp_path / "cache")
    np.testing.assert_array_equal(tokens, expected)
    assert is_mapped(tokens)


def test_buckets_hold_caches_too(tmp_path, tokenizer, expected, monkeypatch):
    """Broken by: a memory map, a hard link or fsync where the file is no local one."""
    local = epath.Path("/")._backend

    class Bucket:
        def __getattr__(self, name):
            def call(*paths, **options):
                paths = [path.replace("gs://bucket", str(tmp_path)) for path in paths]
                return getattr(local, name)(*paths, **options)

            return call

    path_type = type(epath.Path("gs://bucket"))
    monkeypatch.setattr(path_type, "_backend", property(lambda path: Bucket()))
    monkeypatch.setattr(os, "link", None)
    monkeypatch.setattr(os, "fsync", None)
    for _ in range(2):
        tokens = token_cache.encode(tokenizer, SENTENCES, LENGTH, "gs://bucket/cache")
        np.testing.assert_array_equal(tokens, expected)
        assert the_file(tmp_path / "cache") and not is_mapped(tokens)
        forbid_encoding(tokenizer, monkeypatch)


@pytest.mark.parametrize("directory", ["", None, "file/cache", "full"])
def test_ids_are_returned_without_a_usable_directory(
    tmp_path, tokenizer, expected, directory, monkeypatch
):
    """Broken by: a partial file that stays, or that takes the name."""

    def full(file, array, **options):
        file.write(b"part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    tokens = token_cache.encode(tokenizer, SENTENCES, LENGTH, directory)
    np.testing.assert_array_equal(tokens, expected)
    few = token_cache.encode(tokenizer, SENTENCES[1:], LENGTH, "few")
    np.testing.assert_array_equal(few, expected[1:])
    assert {*files(tmp_path)} <= {"clip", "file", "full"}
    assert directory != "full" or not files(tmp_path / "full")
