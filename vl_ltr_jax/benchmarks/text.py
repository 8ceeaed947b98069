"""The text side of a large data set: texts to sentences to token ids, and their cache.

    python -m vl_ltr_jax.benchmarks.text --sentences=1000000

The texts are artificial, with the length and vocabulary of an encyclopaedia. A sample
also goes through OpenAI's tokenizer, which the authors use; the ids must be equal.
Neither tokenizer remembers words between rounds.
"""

import argparse
import shutil
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer

from vl_ltr_jax.benchmarks import paired
from vl_ltr_jax.benchmarks.openai_clip import openai_file, openai_module
from vl_ltr_jax.commands import exits
from vl_ltr_jax.data.text import token_cache
from vl_ltr_jax.data.text.corpus import build_corpus
from vl_ltr_jax.data.text.files import read_texts, text_path
from vl_ltr_jax.data.text.prompts import PROMPTS
from vl_ltr_jax.data.text.tokenizer import Tokenizer, trim
from vl_ltr_jax.data.text.vocabulary import END, START, read_merges, write_tokenizer
from vl_ltr_jax.runtime.errors import UserError

CONTEXT_LENGTH = 77
_VOCABULARY, _VOCAB_SIZE = "bpe_simple_vocab_16e6.txt.gz", 49408
_CLASSES = 8142 / 1_000_000  # of a sentence: iNaturalist 2018
_WORDS = 200_000
_ODD_WORDS = (
    *("R&amp;D", "5&nbsp;cm", "&#233;t&#233;", "12&#176;C", "R&eacute;union", "&quot;"),
    *("São", "Müller", "naïve", "β-carotene", "“old”", "it’s", "10–20", "½", "×", "樹"),
)
_SYLLABLES = [c + v for c in "bcdfglmnprstv" for v in ("a", "e", "i", "o", "u", "us")]


class UnequalIdsError(UserError):
    """A sentence that the two tokenizers see differently."""


def invented_words(rng: np.random.Generator, count: int) -> list[str]:
    """Words of two to five syllables, which few vocabularies have whole."""
    drawn = rng.integers(0, len(_SYLLABLES), (count, 5)).tolist()
    lengths = rng.integers(2, 6, count).tolist()
    return [
        "".join(_SYLLABLES[i] for i in row[:length])
        for row, length in zip(drawn, lengths, strict=True)
    ]


def binomials(rng: np.random.Generator, count: int) -> list[str]:
    """Class names such as `Lusaru metodi`; about five classes share the first word."""
    genera = invented_words(rng, max(count // 5, 1))
    drawn = rng.integers(0, len(genera), count).tolist()
    return [
        f"{genera[genus].capitalize()} {species}"
        for genus, species in zip(drawn, invented_words(rng, count), strict=True)
    ]


def articles(
    rng: np.random.Generator, common: Sequence[str], count: int, num_sentences: int
) -> list[str]:
    """Texts of classes; their sentences have about 25 tokens.

    Words follow Zipf's law. One sentence in twenty has a word with an HTML entity or a
    letter outside ASCII.

    Args:
      rng: of all draws.
      common: real words, the most frequent first; the rare ones are invented.
      count: of texts.
      num_sentences: of all texts together.
    """
    words = [*common, *invented_words(rng, max(_WORDS - len(common), 0))]
    share = np.cumsum(1 / (np.arange(len(words)) + 2.7))
    lengths = np.exp(rng.normal(2.75, 0.45, num_sentences)).astype(int).clip(3, 90)
    drawn = np.searchsorted(share / share[-1], rng.random(lengths.sum())).tolist()
    comma = (rng.random(len(drawn)) < 0.06).tolist()
    is_odd = (rng.random(num_sentences) < 0.05).tolist()
    sentences, first = [], 0
    for length, odd in zip(lengths.tolist(), is_odd, strict=True):
        span = range(first, first + length)
        chosen = [words[drawn[i]] + "," * comma[i] for i in span]
        if odd:
            chosen[1] = _ODD_WORDS[first % len(_ODD_WORDS)]
        sentences.append(" ".join(chosen).rstrip(",").capitalize() + ".")
        first += length
    cuts = np.linspace(0, num_sentences, count + 1).astype(int).tolist()
    return [
        "\n== Habitat ==\n".join(
            " ".join(sentences[start:end][half::2]) for half in range(2)
        )
        for start, end in zip(cuts, cuts[1:], strict=False)
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Prints what each step takes, and how OpenAI's tokenizer compares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sentences", type=paired.count, default=1_000_000)
    parser.add_argument("--sample", type=paired.count, default=50_000)
    parser.add_argument("--rounds", type=paired.count, default=3)
    options = parser.parse_args(argv)
    if options.sentences < 2 * len(PROMPTS["imagenet80"]):
        parser.error(f"--sentences={options.sentences}; a class alone has over 160")
    with tempfile.TemporaryDirectory() as scratch:
        text_side = TextSide(Path(scratch), options.sentences, options.sample)
        print(text_side.summary())
        steps = paired.run(text_side.steps(), options.rounds)
        print(f"{'':24} {'median s':>9} {'sentences/s':>12} {'peak MiB':>9}")
        for name, cost in steps.items():
            print(_row(name, cost, len(text_side.sentences)))
        print(f"{len(text_side.sample)} of the sentences:")
        print(text_side.comparison(options.rounds))


class TextSide:
    """A data set's texts on disk, its sentences, and both tokenizers."""

    def __init__(self, scratch: Path, num_sentences: int, sample: int) -> None:
        """Makes the texts up and writes them."""
        merges = read_merges(openai_file(_VOCABULARY))[: _VOCAB_SIZE - 514]
        write_tokenizer(scratch / "clip", merges, vocab_size=_VOCAB_SIZE)
        self.tokenizer = Tokenizer.from_directory(scratch / "clip")
        self.theirs = openai_module("simple_tokenizer.py").SimpleTokenizer()
        tokens = (first + second for first, second in merges)
        words = (token[: -len("</w>")] for token in tokens if token.endswith("</w>"))
        common = [word for word in words if word.isascii() and word.isalpha()]
        rng = np.random.default_rng(0)
        self.names = binomials(rng, max(int(num_sentences * _CLASSES), 1))
        num_prose = num_sentences - len(self.names) * len(PROMPTS["imagenet80"])
        self.root, self.cache = scratch, scratch / "cache"
        text_path(scratch, 0).parent.mkdir()
        for label, text in enumerate(articles(rng, common, len(self.names), num_prose)):
            text_path(scratch, label).write_text(text, encoding="utf-8")
        self.texts = read_texts(scratch, len(self.names))
        self.sentences = build_corpus(self.names, self.texts).sentences
        self.sample = self.sentences[:: max(len(self.sentences) // sample, 1)][:sample]

    def summary(self) -> str:
        """Returns the numbers of classes, characters, sentences and ids as text."""
        lengths = np.argmax(self.tokenizer.encode(self.sample), axis=1) + 1
        return (
            f"{len(self.names)} classes, {sum(map(len, self.texts)) / 1e6:.1f} million "
            f"characters, {len(self.sentences)} sentences of {lengths.mean():.1f} ids"
        )

    def steps(self) -> dict[str, Callable[[], object]]:
        """The text side of a run, step by step, and what a second run does."""

        def cached() -> Integer[np.ndarray, "S L"]:
            return token_cache.encode(
                self.tokenizer, self.sentences, CONTEXT_LENGTH, self.cache
            )

        def encoded_and_cached() -> Integer[np.ndarray, "S L"]:
            shutil.rmtree(self.cache, ignore_errors=True)
            return cached()

        return {  # not the sentences: their million would be looked through for arrays
            "texts read": lambda: len(read_texts(self.root, len(self.names))),
            "corpus built": lambda: len(build_corpus(self.names, self.texts).labels),
            "tokenised": lambda: trim(self.tokenizer.encode(self.sentences)),
            "tokenised, cache written": encoded_and_cached,
            "read from the cache": cached,
        }

    def comparison(self, rounds: int) -> str:
        """Both tokenizers on the sample.

        Raises:
          UnequalIdsError: if the ids of a sentence differ.
        """
        programs: dict[str, Callable[[], Any]] = {
            "ours": lambda: self.tokenizer.encode(self.sample, CONTEXT_LENGTH),
            "OpenAI's": self._as_openai,
        }
        ours, theirs = (program() for program in programs.values())
        if (unequal := np.flatnonzero((ours != theirs).any(axis=1))).size:
            raise UnequalIdsError(
                f"ids of {unequal.size} sentences differ from those of OpenAI's "
                f"tokenizer, first {self.sample[unequal[0]]!r}"
            )
        costs = paired.run(programs, rounds)
        seconds = (cost.seconds for cost in costs.values())
        ratios = [theirs / ours for ours, theirs in zip(*seconds, strict=True)]
        rows = [_row(name, cost, len(self.sample)) for name, cost in costs.items()]
        return "\n".join(
            [
                *rows,
                f"ours is {statistics.median(ratios):.2f} times as fast as OpenAI's "
                f"(rounds: {min(ratios):.2f} to {max(ratios):.2f}); the ids are equal",
            ]
        )

    def _as_openai(self) -> Integer[np.ndarray, "S L"]:
        """Rows as the authors make them: 75 tokens at most between start and end."""
        start, end = self.theirs.encoder[START], self.theirs.encoder[END]
        self.theirs.cache = {START: START, END: END}  # as it is at first
        tokens = np.zeros((len(self.sample), CONTEXT_LENGTH), np.int32)
        for row, sentence in zip(tokens, self.sample, strict=True):
            ids = [start, *self.theirs.encode(sentence)[: CONTEXT_LENGTH - 2], end]
            row[: len(ids)] = ids
        return tokens


def _row(name: str, cost: paired.Cost, num_sentences: int) -> str:
    seconds = statistics.median(cost.seconds)
    return (
        f"{name:24} {seconds:9.3f} {num_sentences / seconds:12.0f} "
        f"{cost.peak_bytes / 2**20:9.0f}"
    )


if __name__ == "__main__":
    with exits.refusing():
        main()
