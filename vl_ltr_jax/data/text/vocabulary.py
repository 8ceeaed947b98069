"""Tokenizer files of CLIP, in Hugging Face's layout: read, checked and written.

A vocabulary is 256 byte symbols, the same 256 at the end of a word (`</w>`), one token
per merge, and the start and end tokens, in this order of ids.
"""

import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vl_ltr_jax.runtime.errors import UserError
from vl_ltr_jax.storage import strict_json

START, END = "<|startoftext|>", "<|endoftext|>"
Merges = list[tuple[str, str]]


class VocabularyError(UserError):
    """Tokenizer files that are missing, malformed, or not of a CLIP tokenizer."""


def byte_symbols() -> list[str]:
    """One visible character per byte, in the order of CLIP's ids.

    Bytes that Latin-1 shows as a character stand for themselves and come first; the
    others take the code points from 256 on.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(b) for b in visible] + [chr(256 + i) for i in range(256 - len(visible))]


def read_merges(path: str | Path) -> Merges:
    """Reads a merge list: a `#version` line, then rows of two symbols; .gz or plain.

    Raises:
        ValueError: a row that has not two symbols; names the file and the line.
    """
    path = Path(path)
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as fault:
        raise VocabularyError(f"{path}: not UTF-8: {fault}") from None
    merges = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or (number == 1 and "#version" in line):
            continue
        merges.append(_pair(line.split(), f"{path}:{number}"))
    return merges


def read_vocabulary(directory: Path) -> tuple[dict[str, int], Merges]:
    """Reads the vocabulary and the merges of a Hugging Face CLIP directory.

    Raises:
        ValueError: files missing, malformed, or not of a CLIP tokenizer.
    """
    whole, parts = directory / "tokenizer.json", directory / "vocab.json"
    if whole.is_file():
        path, vocabulary, merges = whole, *_read_whole(whole)
    elif parts.is_file() and (directory / "merges.txt").is_file():
        path, vocabulary = parts, _read_object(parts)
        merges = read_merges(directory / "merges.txt")
    else:
        raise VocabularyError(
            f"{directory} holds no tokenizer: neither tokenizer.json, nor vocab.json "
            "and merges.txt; copy them from the CLIP model's directory"
        )
    _check(path, vocabulary, merges)
    if len(merges) < (made := len(vocabulary) - 514):
        raise VocabularyError(
            f"{path}: {made} tokens are made by merging others, but there are only "
            f"{len(merges)} merges; was the list cut off?"
        )
    return vocabulary, merges


def write_tokenizer(
    directory: str | Path, merges: Sequence[tuple[str, str]], *, vocab_size: int
) -> None:
    """Writes vocab.json, merges.txt and tokenizer_config.json of a CLIP tokenizer.

    The first merges of a list are a whole vocabulary of their own, so a large list cut
    short tokenizes any text, into more and shorter pieces.

    Args:
        directory: made if it does not exist.
        merges: in order of precedence; the first `vocab_size` - 514 are used.
        vocab_size: number of ids, start and end tokens included.

    Raises:
        ValueError: too few merges, or one of a symbol that no earlier merge made.
    """
    symbols = byte_symbols()
    tokens = symbols + [symbol + "</w>" for symbol in symbols]
    wanted = vocab_size - len(tokens) - 2
    if not 0 <= wanted <= len(merges):
        raise VocabularyError(
            f"the vocabulary size is {vocab_size}; with {len(merges)} merges it can be "
            f"{len(tokens) + 2} to {len(tokens) + 2 + len(merges)}"
        )
    merges = list(merges[:wanted])
    tokens += ["".join(merge) for merge in merges] + [START, END]
    vocabulary = {token: id_ for id_, token in enumerate(tokens)}
    directory = Path(directory)
    _check(directory / "vocab.json", vocabulary, merges)
    directory.mkdir(parents=True, exist_ok=True)
    _write_json(directory / "vocab.json", vocabulary)
    (directory / "merges.txt").write_text(
        "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8"
    )
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
    }
    _write_json(directory / "tokenizer_config.json", settings)


def _read_whole(path: Path) -> tuple[dict[str, int], Merges]:
    model = _read_object(path).get("model", {})
    if not isinstance(model, dict):
        raise VocabularyError(f"{path}: its model is {str(model)[:100]}, not an object")
    if model.get("type", "BPE") != "BPE" or model.get("end_of_word_suffix") != "</w>":
        raise VocabularyError(
            f"{path}: not a CLIP tokenizer: its model is {str(model.get('type'))[:50]} "
            f"with the end of word {str(model.get('end_of_word_suffix'))[:50]!r}, not "
            "BPE with '</w>'"
        )
    if absent := {"vocab", "merges"} - model.keys():
        raise VocabularyError(
            f"{path}: its model has no {' and no '.join(sorted(absent))}"
        )
    if not (isinstance(model["vocab"], dict) and isinstance(model["merges"], list)):
        raise VocabularyError(f"{path}: its vocab is no object, or its merges no list")
    # Older files write a merge as "a b", newer ones as ["a", "b"].
    merges = [
        _pair(m.split() if isinstance(m, str) else m, f"{path}: merge {rank}")
        for rank, m in enumerate(model["merges"])
    ]
    return model["vocab"], merges


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = strict_json.parse(path.read_bytes())
    except json.JSONDecodeError as fault:
        raise VocabularyError(f"{path}:{fault.lineno}: not JSON: {fault.msg}") from None
    except UnicodeDecodeError as fault:
        raise VocabularyError(f"{path}: not UTF-8: {fault}") from None
    except ValueError as fault:
        raise VocabularyError(f"{path}: {fault}") from None
    if not isinstance(value, dict):
        raise VocabularyError(f"{path}: holds {type(value).__name__}, not an object")
    return value


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def _pair(symbols: Any, where: str) -> tuple[str, str]:
    match symbols:
        case [str(left), str(right)]:
            return left, right
    raise VocabularyError(
        f"{where}: {str(symbols)[:100]!r} is not a merge; a merge is two symbols with "
        "a space between"
    )


def _check(
    path: Path, vocabulary: Mapping[str, int], merges: Iterable[tuple[str, str]]
) -> None:
    """A vocabulary with gaps would turn text into wrong ids in silence."""
    symbols = byte_symbols()
    needed = [*symbols, *(symbol + "</w>" for symbol in symbols), START, END]
    if missing := [token for token in needed if token not in vocabulary]:
        raise VocabularyError(
            f"{path}: not the vocabulary of a CLIP tokenizer: {len(missing)} of the "
            f"{len(needed)} tokens that each has are missing, first {missing[0]!r}"
        )
    odd = [token for token, id_ in vocabulary.items() if type(id_) is not int]
    if odd:
        raise VocabularyError(
            f"{path}: the id of {odd[0][:100]!r} is {str(vocabulary[odd[0]])[:100]}, "
            "not a number"
        )
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise VocabularyError(
            f"{path}: the ids of {len(vocabulary)} tokens are not 0 .. "
            f"{len(vocabulary) - 1}, each once"
        )
    if vocabulary[END] != len(vocabulary) - 1:
        raise VocabularyError(
            f"{path}: the id of {END} is {vocabulary[END]}, not the largest "
            f"({len(vocabulary) - 1}), by which the text tower finds it"
        )
    for rank, (left, right) in enumerate(merges):
        for token in (left, right, left + right):
            if token not in vocabulary:
                raise VocabularyError(
                    f"{path}: merge {rank}, {left[:100]} {right[:100]}, needs "
                    f"{token[:200]!r}, which is not in the vocabulary"
                )
