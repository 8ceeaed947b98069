"""Token ids on disk: used again where they are right, made anew where they are not."""

import importlib.metadata
import os
import shutil
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


def test_the_second_run_maps_what_the_first_made(
    tmp_path: Path,
    tokenizer: Tokenizer,
    expected: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Broken by: a key that changes from run to run, or tokens written untrimmed."""
    cache = tmp_path / "new" / "cache"
    first = token_cache.encode(tokenizer, SENTENCES, LENGTH, cache)
    said = capsys.readouterr().err
    assert said == "tokens: 5 sentences become ids\ntokens: finished in 0s\n"
    again = Tokenizer.from_directory(tmp_path / "clip")
    forbid_encoding(again, monkeypatch)
    second = token_cache.encode(again, list(SENTENCES), LENGTH, str(cache))
    for found in (first, second):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == np.uint16
        assert type(found) is np.ndarray
    assert expected.shape == (5, 24)
    assert capsys.readouterr().err == ""  # read, not made
    assert is_mapped(second) and not second.flags.writeable


@pytest.mark.parametrize("directory", ["", None])
def test_without_a_directory_nothing_is_kept(
    tmp_path: Path,
    tokenizer: Tokenizer,
    expected: np.ndarray,
    directory: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    found = token_cache.encode(tokenizer, SENTENCES, LENGTH, directory)
    np.testing.assert_array_equal(found, expected)
    assert not files(tmp_path / "here")


def test_small_corpora_are_not_kept(tmp_path: Path, tokenizer: Tokenizer) -> None:
    token_cache.encode(tokenizer, SENTENCES[1:], LENGTH, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


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


def archived(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:
        np.savez(file, array)


DAMAGES = {
    "truncated": lambda path, ids: path.write_bytes(path.read_bytes()[:-1]),
    "header alone": lambda path, ids: path.write_bytes(path.read_bytes()[:100]),
    "header garbled": lambda path, ids: path.write_bytes(
        path.read_bytes().replace(b"descr", b"d(scr")
    ),
    "empty": lambda path, ids: path.write_bytes(b""),
    "text": lambda path, ids: path.write_text("tokens"),
    "other type": lambda path, ids: saved(path, ids.astype(np.int32)),
    "other byte order": lambda path, ids: saved(path, ids.astype(">u2")),
    "objects": lambda path, ids: saved(path, ids.astype(object)),
    "other sentences": lambda path, ids: saved(path, ids[1:]),
    "too wide": lambda path, ids: saved(path, np.pad(ids, [(0, 0), (0, 32)])),
    "flat": lambda path, ids: saved(path, ids[0]),
    "a hole": lambda path, ids: saved(path, np.vstack([ids[:4], 0 * ids[:1]])),
    "archive": lambda path, ids: archived(path, ids),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_made_anew(
    tmp_path: Path, tokenizer: Tokenizer, expected: np.ndarray, damage: str
) -> None:
    """Broken by: any header or size being believed."""
    cache = tmp_path / "cache"
    token_cache.encode(tokenizer, SENTENCES, LENGTH, cache)
    path = the_file(cache)
    whole = path.read_bytes()
    DAMAGES[damage](path, expected)
    assert path.read_bytes() != whole
    found = token_cache.encode(tokenizer, SENTENCES, LENGTH, cache)
    np.testing.assert_array_equal(found, expected)
    assert the_file(cache).read_bytes() == whole


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    logged: list[str] = []
    monkeypatch.setattr(
        token_cache.logging,
        "warning",
        lambda message, *arguments: logged.append(message % arguments),
    )
    return logged


def test_a_directory_that_cannot_be_made_is_no_reason_to_stop(
    tmp_path: Path, tokenizer: Tokenizer, expected: np.ndarray, warnings: list[str]
) -> None:
    (tmp_path / "file").write_text("")
    found = token_cache.encode(tokenizer, SENTENCES, LENGTH, tmp_path / "file" / "c")
    np.testing.assert_array_equal(found, expected)
    [warning] = warnings
    assert warning.startswith("The token ids of 5 sentences are not kept: ")
    assert f"{tmp_path / 'file' / 'c'}" in warning


def test_a_full_disk_leaves_nothing(
    tmp_path: Path,
    tokenizer: Tokenizer,
    expected: np.ndarray,
    warnings: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Broken by: a partial file that stays, or that takes the name."""

    def full(file: Any, array: np.ndarray, **options: Any) -> None:
        file.write(b"part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    found = token_cache.encode(tokenizer, SENTENCES, LENGTH, tmp_path / "cache")
    np.testing.assert_array_equal(found, expected)
    assert not files(tmp_path / "cache")
    assert "No space left" in warnings[0]


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
    found = token_cache.encode(tokenizer, SENTENCES, LENGTH, tmp_path / "cache")
    np.testing.assert_array_equal(found, expected)
    assert is_mapped(found)


def test_a_file_that_others_may_have_mapped_stays(
    tmp_path: Path,
    tokenizer: Tokenizer,
    expected: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Broken by: a rename, which over NFS takes the file from under its readers."""
    cache, aside = tmp_path / "cache", tmp_path / "aside"
    token_cache.encode(tokenizer, SENTENCES, LENGTH, aside)
    path = cache / the_file(aside).name

    inodes = []

    def other_is_faster(descriptor: int) -> None:
        shutil.copy(the_file(aside), path)
        inodes.append(path.stat().st_ino)

    monkeypatch.setattr(os, "fsync", other_is_faster)
    found = token_cache.encode(tokenizer, SENTENCES, LENGTH, cache)
    np.testing.assert_array_equal(found, expected)
    assert [the_file(cache).stat().st_ino] == inodes


def test_a_disk_without_hard_links(
    tmp_path: Path,
    tokenizer: Tokenizer,
    expected: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def link(*paths: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", link)
    token_cache.encode(tokenizer, SENTENCES, LENGTH, tmp_path / "cache")
    np.testing.assert_array_equal(np.load(the_file(tmp_path / "cache")), expected)


class Bucket:
    """Does with files of a directory what is asked of gs://bucket."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._local = directory, epath.Path("/")._backend

    def __getattr__(self, name: str) -> Any:
        def call(*paths: str, **options: Any) -> Any:
            found = [p.replace("gs://bucket", str(self._directory)) for p in paths]
            return getattr(self._local, name)(*found, **options)

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


@pytest.mark.parametrize(
    ("named", "base"),
    [
        ("/big/disk", "/big/disk"),
        ("relative", "/home/x/.cache"),
        ("", "/home/x/.cache"),
    ],
)
def test_default_directory(
    named: str, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/x")
    monkeypatch.setenv("XDG_CACHE_HOME", named)
    assert token_cache.default_directory() == Path(base) / "vl_ltr_jax"
    if not named:
        monkeypatch.delenv("XDG_CACHE_HOME")
        assert token_cache.default_directory() == Path(base) / "vl_ltr_jax"


def test_a_directory_may_start_at_home(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    token_cache.encode(tokenizer, SENTENCES, LENGTH, "~/cache")
    assert the_file(tmp_path / "home" / "cache")


def test_context_too_short(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="context length is 1;"):
        token_cache.encode(tokenizer, SENTENCES, 1, tmp_path / "cache")
