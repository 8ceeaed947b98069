"""CLIP's tokenizer: sentences to token ids, equal to those of OpenAI's code.

Cleaning repairs encoding faults and HTML entities, collapses blanks and lowers the
case. A sentence is cut into words, digits and runs of punctuation. Each piece is merged
byte pair by byte pair (Radford et al., 2021). The vocabulary comes from the tokenizer
files of a Hugging Face CLIP directory.

No piece reaches over a blank, so the ids of a word do not depend on its neighbours.
Each distinct word of a call is merged once, and a sentence is its words' ids.
"""

import array
import hashlib
import html
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import ftfy
import numpy as np
import regex
import tokenizers
from jaxtyping import Integer

from vl_ltr_jax.data.text.vocabulary import END, START, read_vocabulary
from vl_ltr_jax.logs import console

_PIECE = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
    r"|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)
# Printable ASCII without "&": ftfy and HTML change nothing in it.
_SOUND = re.compile(r"[\t\n\r -%'-~]*")
# Python parses no number of more than 4300 digits; an environment may set fewer.
_LONG_NUMBER = re.compile(r"(?<=&#)[0-9]{500,}")
_SENTENCES_AT_ONCE = 16384
# Cached words, about 150 MiB. A corpus of encyclopaedia articles has fewer; in Chinese,
# without blanks, every sentence is a new word.
_REMEMBERED = 2**19


def clean(text: str) -> str:
    """Repairs encoding faults and HTML entities, collapses blanks, lowers the case."""
    if not _SOUND.fullmatch(text):
        text = _unescape(_unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


def _unescape(text: str) -> str:
    """Returns the text without HTML entities."""
    # Eight digits, the first no zero, exceed the largest code point.
    return html.unescape(
        _LONG_NUMBER.sub(lambda digits: digits[0].lstrip("0")[:8] or "0", text)
    )


def _words(text: str) -> list[str]:
    """Returns the words of a cleaned text."""
    if _SOUND.fullmatch(text):
        return text.lower().split()
    return clean(text).split()


class Tokenizer:
    """Byte-pair tokenizer of CLIP.

    Attributes:
      vocab_size: number of ids; the largest is that of the end-of-text token, which the
        text tower finds as the argmax of a row.
      dtype: uint16 if all ids fit, else int32.
      digest: hash of the vocabulary and the merges.
    """

    def __init__(
        self, vocabulary: Mapping[str, int], merges: Iterable[tuple[str, str]]
    ) -> None:
        """Builds the tokenizer; `read_vocabulary` gives checked arguments."""
        self.vocab_size = len(vocabulary)
        self.dtype = np.dtype(np.uint16 if self.vocab_size <= 2**16 else np.int32)
        self._start, self._end = vocabulary[START], vocabulary[END]
        merges = list(merges)
        rules = json.dumps([sorted(vocabulary.items()), merges])
        self.digest = hashlib.sha256(rules.encode()).hexdigest()
        self._merger = tokenizers.Tokenizer(
            tokenizers.models.BPE(dict(vocabulary), merges, end_of_word_suffix="</w>")
        )
        self._merger.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
            add_prefix_space=False, use_regex=False
        )
        self._merger.add_special_tokens([START, END])

    @classmethod
    def from_directory(cls, directory: str | Path) -> "Tokenizer":
        """Reads tokenizer.json, or else vocab.json and merges.txt.

        Raises:
          VocabularyError: files are missing, malformed, or not of a CLIP tokenizer.
        """
        return cls(*read_vocabulary(Path(directory)))

    def encode(
        self, texts: Sequence[str], context_length: int = 77
    ) -> Integer[np.ndarray, "S L"]:
        """Returns rows of ids: start, at most L - 2 tokens, end, zeros.

        As in OpenAI's code a literal `<|endoftext|>` in a sentence becomes the token.
        0 is both the padding and the id of `!`: the text tower pools at the first end
        of text and never looks beyond it.

        Args:
          texts: S sentences.
          context_length: L, start and end included.

        Raises:
          ValueError: `context_length` is below 2.
        """
        if context_length < 2:
            raise ValueError(f"context_length={context_length}: below 2. CLIP has 77.")
        size = self.dtype.itemsize
        start, end = self._packed([self._start]), self._packed([self._end])
        room, width = (context_length - 2) * size, context_length * size
        tokens = np.empty((len(texts), context_length), self.dtype)
        known: dict[str, bytes] = {}
        starts = range(0, len(texts), _SENTENCES_AT_ONCE)
        steps: Iterable[int] = starts
        if len(starts) > 1:
            steps = console.progress(
                starts, "tokens", len(texts), "sentences", each=_SENTENCES_AT_ONCE
            )
        for first in steps:
            block = self._sentences(texts[first : first + _SENTENCES_AT_ONCE], known)
            rows = b"".join(
                [(start + ids[:room] + end).ljust(width, b"\0") for ids in block]
            )
            tokens[first : first + len(block)] = np.frombuffer(
                rows, self.dtype
            ).reshape(-1, context_length)
        return tokens

    def byte_pairs(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns all ids of each sentence, without start and end."""
        rows = self._sentences(texts, {})
        return [np.frombuffer(ids, self.dtype).tolist() for ids in rows]

    def _sentences(self, texts: Sequence[str], known: dict[str, bytes]) -> list[bytes]:
        """Returns the ids of each sentence, and adds new words to the known ones."""
        if len(known) > _REMEMBERED:
            known.clear()
        rows = [_words(text) for text in texts]
        new = set(itertools.chain.from_iterable(rows)).difference(known)
        pieces = {word: _PIECE.findall(word) for word in new}
        distinct = list(set(itertools.chain.from_iterable(pieces.values())))
        merged = self._merger.encode_batch_fast(distinct, add_special_tokens=False)
        ids = {p: self._packed(e.ids) for p, e in zip(distinct, merged, strict=True)}
        for word, parts in pieces.items():
            known[word] = b"".join([ids[piece] for piece in parts])
        return [b"".join([known[word] for word in row]) for row in rows]

    def _packed(self, ids: Iterable[int]) -> bytes:
        return array.array(self.dtype.char, ids).tobytes()


def trim(tokens: Integer[np.ndarray, "S L"]) -> Integer[np.ndarray, "S M"]:
    """Cuts columns of padding: to the longest row, rounded up to a multiple of 8.

    Exact, since the text tower is causal and pools at the end of text. The rounding
    keeps the number of shapes, and so of compilations, small.
    """
    used = np.flatnonzero(tokens.any(axis=0))
    longest = int(used[-1]) + 1 if used.size else 1
    return tokens[:, : -(-longest // 8) * 8]
