"""CLIP's tokenizer: sentences to token ids, equal to those of OpenAI's code.

A sentence is cleaned (encoding faults and HTML entities repaired, blanks collapsed,
lower case), cut into words, digits and runs of punctuation, and each piece is merged
byte pair by byte pair (Radford et al., 2021). The vocabulary comes from the tokenizer
files of a Hugging Face CLIP directory.

A piece gets the same ids wherever it stands, so each distinct piece of a batch of
sentences is merged once.
"""

import html
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import ftfy
import numpy as np
import regex
import tokenizers
from jaxtyping import Int

from vl_ltr_jax.data.vocabulary import END, START, read_vocabulary

_PIECE = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
    r"|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)
# Printable ASCII without "&": here ftfy and HTML have nothing to repair.
_SOUND = re.compile(r"[\t\n\r -%'-~]*")
_SENTENCES_AT_ONCE = 16384


def clean(text: str) -> str:
    """Repairs encoding faults and HTML entities, collapses blanks, lowers the case."""
    if not _SOUND.fullmatch(text):
        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


class Tokenizer:
    """Byte-pair tokenizer of CLIP.

    Attributes:
        vocab_size: number of ids; the largest is that of the end-of-text token, which
            the text tower finds as the argmax of a row.
    """

    def __init__(
        self, vocabulary: Mapping[str, int], merges: Iterable[tuple[str, str]]
    ) -> None:
        """Builds the tokenizer; `read_vocabulary` gives checked arguments."""
        self.vocab_size = len(vocabulary)
        self._start, self._end = vocabulary[START], vocabulary[END]
        self._merger = tokenizers.Tokenizer(
            tokenizers.models.BPE(
                dict(vocabulary), list(merges), end_of_word_suffix="</w>"
            )
        )
        self._merger.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
            add_prefix_space=False, use_regex=False
        )
        self._merger.add_special_tokens([START, END])

    @classmethod
    def from_directory(cls, directory: str | Path) -> "Tokenizer":
        """Reads tokenizer.json, or else vocab.json and merges.txt.

        Raises:
            ValueError: files missing, malformed, or not of a CLIP tokenizer.
        """
        return cls(*read_vocabulary(Path(directory)))

    def encode(
        self, texts: Sequence[str], context_length: int = 77
    ) -> Int[np.ndarray, "S L"]:
        """Turns sentences into rows of ids: start, at most L - 2 tokens, end, zeros.

        As in OpenAI's code a literal `<|endoftext|>` in a sentence becomes the token,
        and 0 is both the padding and the id of `!`; the text tower pools at the first
        end of text and never looks beyond it.

        Args:
            texts: S sentences.
            context_length: L, start and end included.

        Returns:
            int32.

        Raises:
            ValueError: `context_length` below 2.
        """
        if context_length < 2:
            raise ValueError(
                f"the context length is {context_length}; the start and end tokens "
                "alone take 2 (CLIP has 77)"
            )
        tokens = np.zeros((len(texts), context_length), np.int32)
        for first in range(0, len(texts), _SENTENCES_AT_ONCE):
            rows = self.byte_pairs(texts[first : first + _SENTENCES_AT_ONCE])
            for row, ids in enumerate(rows, first):
                filled = [self._start, *ids[: context_length - 2], self._end]
                tokens[row, : len(filled)] = filled
        return tokens

    def byte_pairs(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each sentence, whole and without start and end."""
        pieces = [_PIECE.findall(clean(text)) for text in texts]
        distinct = list(dict.fromkeys(itertools.chain.from_iterable(pieces)))
        merged = self._merger.encode_batch_fast(distinct, add_special_tokens=False)
        ids = {piece: e.ids for piece, e in zip(distinct, merged, strict=True)}
        return [[i for piece in row for i in ids[piece]] for row in pieces]


def trim(tokens: Int[np.ndarray, "S L"]) -> Int[np.ndarray, "S M"]:
    """Cuts columns that only pad: to the longest row, rounded up to a multiple of 8.

    Exact, since the text tower is causal and pools at the end of text. The rounding
    keeps the number of shapes, and so of compilations, small.
    """
    used = np.flatnonzero(tokens.any(axis=0))
    longest = int(used[-1]) + 1 if used.size else 1
    return tokens[:, : -(-longest // 8) * 8]
