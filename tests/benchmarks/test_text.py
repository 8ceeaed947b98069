"""The benchmark of the text side, at a tiny size."""

import re
from pathlib import Path

import numpy as np
import pytest

from vl_ltr_jax.benchmarks import text
from vl_ltr_jax.data.text import token_cache

SIZES = ["--sentences=400", "--sample=100", "--rounds=1"]


@pytest.fixture(autouse=True)
def small_corpora_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_cache, "SMALLEST", 10)


def test_the_text_side_beside_openais(capsys: pytest.CaptureFixture[str]) -> None:
    """Breaks when a step is left out, or the corpus has another size than asked for."""
    text.main(SIZES)
    printed = capsys.readouterr().out
    assert "3 classes, " in printed and " 400 sentences of " in printed
    assert re.search(r"ours is [\d.]+ times as fast .*; the ids are equal", printed)


def test_texts_are_as_an_encyclopaedias(tmp_path: Path) -> None:
    """Breaks when sentences merge: they would be fewer, and longer than 25 tokens."""
    texts = text.articles(np.random.default_rng(0), ["the", "of", "sea"], 7, 700)
    assert len(texts) == 7
    sentences = [s for t in texts for part in t.split("\n") for s in part.split(". ")]
    assert len(sentences) == 700 + 7  # and the headings
    odd = sum("&" in s or not s.isascii() for s in sentences)
    assert 0.02 < odd / 700 < 0.08
    side = text.TextSide(tmp_path, 1000, 1000)
    of_texts = [s for s in side.sentences if not s.startswith(("a ", "the ", "itap"))]
    lengths = side.tokenizer.encode(of_texts).argmax(axis=1) + 1
    assert 22 < lengths.mean() < 28
