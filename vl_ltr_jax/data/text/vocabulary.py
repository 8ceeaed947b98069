"""Tokenizer files of CLIP in Hugging Face's layout.

The ids of a vocabulary begin with 256 byte symbols and the same 256 at the end of a
word (`</w>`). One token per merge follows, then the start and end tokens.
"""

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vl_ltr_jax.runtime.errors import UserError

START, END = "<|startoftext|>", "<|endoftext|>"
Merges = list[tuple[str, str]]


class VocabularyError(UserError):
    """Tokenizer files that are missing, malformed, or not of a CLIP tokenizer."""


def byte_symbols() -> list[str]:
    """Returns one visible character per byte, in the order of CLIP's ids.

    Bytes that Latin-1 shows as a character stand for themselves and come first. The
    others take the code points from 256 on.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(b) for b in visible] + [chr(256 + i) for i in range(256 - len(visible))]


def read_merges(path: str | Path) -> Merges:
    """Reads a merge list: a `#version` line, then rows of two symbols; .gz or plain.

    Raises:
      VocabularyError: the file is not UTF-8, or a row has not two symbols.
    """
    path = Path(path)
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise VocabularyError(f"{path}: not UTF-8: {error}") from None
    return [
        _pair(line.split(), f"{path}:{number}")
        for number, line in enumerate(lines, 1)
        if line.strip() and not (number == 1 and "#version" in line)
    ]


def read_vocabulary(directory: Path) -> tuple[dict[str, int], Merges]:
    """Reads the vocabulary and the merges of a Hugging Face CLIP directory.

    Raises:
      VocabularyError: files are missing, malformed, or not of a CLIP tokenizer.
    """
    path = directory / "tokenizer.json"
    if not path.is_file():
        path = directory / "vocab.json"
    if not path.is_file():
        raise VocabularyError(
            f"{directory} holds no tokenizer: neither tokenizer.json, nor vocab.json "
            "and merges.txt. Copy them from the directory of the CLIP model."
        )
    try:
        content = json.loads(path.read_bytes())
        if path.name == "vocab.json":
            vocabulary, merges = content, read_merges(directory / "merges.txt")
        else:
            model = content["model"]
            kind = model.get("type", "BPE"), model["end_of_word_suffix"]
            if kind != ("BPE", "</w>"):
                raise ValueError(f"its model is {kind}, not BPE with '</w>'")
            vocabulary = model["vocab"]
            # Older files write a merge as "a b", newer ones as ["a", "b"].
            merges = [
                _pair(merge.split() if isinstance(merge, str) else merge, str(path))
                for merge in model["merges"]
            ]
        _check(path, vocabulary, merges)
    except VocabularyError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        fault = f"{type(error).__name__}: {error}"
    except RecursionError:
        fault = "its JSON is nested too deeply"
    else:
        if len(merges) >= (number := len(vocabulary) - 514):
            return vocabulary, merges
        fault = f"{number} merged tokens, but only {len(merges)} merges"
    raise VocabularyError(f"{path}: no tokenizer of CLIP: {fault}")


def write_tokenizer(
    directory: str | Path, merges: Sequence[tuple[str, str]], *, vocab_size: int
) -> None:
    """Writes vocab.json, merges.txt and tokenizer_config.json of a CLIP tokenizer.

    The first merges of a list make a complete vocabulary. So a list that is cut short
    tokenizes any text, into more and shorter pieces.

    Args:
      directory: created if absent.
      merges: in order of precedence; the first `vocab_size` - 514 are used.
      vocab_size: number of ids, start and end tokens included.

    Raises:
      VocabularyError: there are too few merges, or a merge needs an unknown symbol.
    """
    symbols = byte_symbols()
    tokens = symbols + [symbol + "</w>" for symbol in symbols]
    num_merges = vocab_size - len(tokens) - 2
    if not 0 <= num_merges <= len(merges):
        raise VocabularyError(
            f"the vocabulary size is {vocab_size}; with {len(merges)} merges it can be "
            f"{len(tokens) + 2} to {len(tokens) + 2 + len(merges)}"
        )
    merges = list(merges[:num_merges])
    tokens += ["".join(merge) for merge in merges] + [START, END]
    vocabulary = {token: id_ for id_, token in enumerate(tokens)}
    directory = Path(directory)
    _check(directory / "vocab.json", vocabulary, merges)
    directory.mkdir(parents=True, exist_ok=True)
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
    }
    rows = "".join(f"{a} {b}\n" for a, b in merges)
    for name, text in (
        ("vocab.json", json.dumps(vocabulary, ensure_ascii=False)),
        ("merges.txt", f"#version: 0.2\n{rows}"),
        ("tokenizer_config.json", json.dumps(settings, ensure_ascii=False)),
    ):
        (directory / name).write_text(text, encoding="utf-8")


def _pair(symbols: Any, where: str) -> tuple[str, str]:
    match symbols:
        case [str(first), str(second)]:
            return first, second
    raise VocabularyError(
        f"{where}: {str(symbols)[:100]!r} is not a merge, which is two symbols with a "
        "space between."
    )


def _check(path: Path, vocabulary: Mapping[str, int], merges: Merges) -> None:
    """Raises a VocabularyError for gaps, which would give wrong ids in silence."""
    "".join(vocabulary).encode()  # half characters would fail in the library
    symbols = byte_symbols()
    needed = [*symbols, *(symbol + "</w>" for symbol in symbols), START, END]
    fault = ""
    if missing := [token for token in needed if token not in vocabulary]:
        fault = f"{len(missing)} of its {len(needed)} basic tokens are missing"
    elif {*map(type, vocabulary.values())} != {int} or sorted(
        vocabulary.values()
    ) != list(range(len(vocabulary))):
        fault = f"its ids are not 0 to {len(vocabulary) - 1}, each once"
    elif vocabulary[END] != len(vocabulary) - 1:
        fault = f"the id of {END} is not the largest, by which the text tower finds it"
    for rank, (first, second) in enumerate(merges):
        for token in (first, second, first + second):
            if not fault and token not in vocabulary:
                fault = f"merge {rank} needs {token[:100]!r}, which has no id"
    if fault:
        raise VocabularyError(
            f"{path}: not the vocabulary of a CLIP tokenizer: {fault}"
        )
