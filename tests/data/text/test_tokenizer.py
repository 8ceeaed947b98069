"""Token ids against OpenAI's tokenizer, and the tokenizer files."""

import html
import json
import random
import re

import ftfy
import numpy as np
import pytest

from vl_ltr_jax.benchmarks.openai_clip import openai_file, openai_module
from vl_ltr_jax.data.text import tokenizer as tokenizer_module
from vl_ltr_jax.data.text.tokenizer import Tokenizer, clean, trim
from vl_ltr_jax.data.text.vocabulary import (
    VocabularyError,
    byte_symbols,
    read_merges,
    read_vocabulary,
    write_tokenizer,
)
from worlds.golden import load

CLIP_VOCAB_SIZE = 49408


@pytest.fixture(scope="module")
def merges():
    return read_merges(openai_file("bpe_simple_vocab_16e6.txt.gz"))


@pytest.fixture(scope="module")
def clip_directory(tmp_path_factory, merges):
    directory = tmp_path_factory.mktemp("clip")
    write_tokenizer(directory, merges, vocab_size=CLIP_VOCAB_SIZE)
    return directory


@pytest.fixture(scope="module")
def tokenizer(clip_directory):
    return Tokenizer.from_directory(clip_directory)


@pytest.fixture(scope="module")
def openai():
    """The tokenizer module of openai-clip, by path: its package needs torchvision."""
    return openai_module("simple_tokenizer.py").SimpleTokenizer()


def test_ids_equal_the_golden(tokenizer):
    """Broken by: no ftfy; `\\w+` for `\\p{L}+`; no lower case.

    Also by padding with the end token, and by dropping it when a row is cut.
    """
    golden = load("text/tokenizer.json")
    assert tokenizer.byte_pairs(golden["texts"]) == golden["bpe_ids"]
    expected = load("text/tokenizer.npz")
    for length in (75, 20):
        rows = tokenizer.encode(golden["texts"], length + 2)
        np.testing.assert_array_equal(rows, expected[f"ctx{length}"])
        assert rows.dtype == np.uint16


@pytest.mark.parametrize("name", ["imnet_lt", "places_lt", "inat"])
def test_corpora_equal_the_golden(tokenizer, name):
    """Broken by: any of the above, on the sentences VL-LTR trains on."""
    golden, tokens = load(f"text/{name}.json"), load(f"text/{name}_tokens.npz")
    for label, sentences in enumerate(golden["sentences"]):
        rows = tokenizer.encode(sentences, golden["context_length"] + 2)
        np.testing.assert_array_equal(rows, tokens[f"class{label}"])


def fuzz(count):
    """Random texts that visit every rule: cases, blanks, entities, markers, scripts."""
    rng = random.Random(0)
    bits = [" ", "\t", "\n", "'", "'S", "_", "!", "-", "&", "&amp;", "&lt;", "&#39;"]
    bits += ["&amp;amp;amp;", "&lt;&amp;amp;"]  # each takes all three repairs
    bits += ["<|endoftext|>", "<|startoftext|>", "<|", "|>", "he'll", "12", "²", "٣"]
    bits += ["Word", "don't", *"éﬁ中ſİß\u0301🐦\x0c", "â€™"]
    bits += [chr(c) for c in range(0x20, 0x250)]
    return ["".join(rng.choices(bits, k=rng.randint(0, 25))) for _ in range(count)]


def test_fuzz_equals_openai(tokenizer, openai):
    """Broken by: one html.unescape; the end marker found in punctuation, `!<|...`."""
    texts = fuzz(3000)
    assert tokenizer.byte_pairs(texts) == [openai.encode(text) for text in texts]


@pytest.mark.parametrize("many", [499, 500, 5000])
def test_references_of_any_number_of_digits(many):
    """Broken by: html.unescape, which raises where Python makes no such number."""
    for before in ("&", "&amp;"):
        assert clean(f"a {before}#{'9' * many}; b") == clean("a &#99999999; b")
        assert clean(f"a {before}#{'0' * many}66; b") == "a b b"
        assert clean(f"a {before}#{'0' * many}; b") == clean("a &#0; b")


def test_short_cut_of_clean_changes_nothing():
    """Broken by: `&` or a control character among the sound characters."""
    rng = random.Random(1)
    for _ in range(3000):
        text = "".join(chr(rng.randrange(128)) for _ in range(rng.randint(0, 9)))
        repaired = html.unescape(html.unescape(ftfy.fix_text(text)))
        assert clean(text) == re.sub(r"\s+", " ", repaired).strip().lower()


def test_batches_are_independent(tokenizer, monkeypatch):
    """Broken by: words forgotten in the middle of a batch, or after one for good."""
    texts = [*fuzz(50), *fuzz(50)]
    rows = tokenizer.encode(texts)
    monkeypatch.setattr(tokenizer_module, "_SENTENCES_AT_ONCE", 7)
    np.testing.assert_array_equal(tokenizer.encode(texts), rows)
    monkeypatch.setattr(tokenizer_module, "_REMEMBERED", 20)
    np.testing.assert_array_equal(tokenizer.encode(texts), rows)


@pytest.mark.parametrize(("size", "dtype"), [(4096, np.uint16), (70001, np.int32)])
def test_vocabularies_of_other_sizes(tmp_path, merges, size, dtype):
    """Broken by: uint16 for every vocabulary, where 70,000 would become 4,464."""
    write_tokenizer(tmp_path, merges, vocab_size=size)
    other = Tokenizer.from_directory(tmp_path)
    rows = other.encode(["a tench."], 16)
    [ids] = other.byte_pairs(["a tench."])
    assert rows.tolist() == [[size - 2, *ids, size - 1, *[0] * (14 - len(ids))]]
    assert rows.dtype == dtype and other.vocab_size == size


def test_both_file_layouts_agree(tmp_path, clip_directory, tokenizer):
    vocabulary, merges = read_vocabulary(clip_directory)
    texts = fuzz(50)
    for row in (list, " ".join):  # newer and older way to write a merge
        model = {"type": "BPE", "end_of_word_suffix": "</w>"}
        model |= {"vocab": vocabulary, "merges": [*map(row, merges)]}
        (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model}))
        other = Tokenizer.from_directory(tmp_path)
        np.testing.assert_array_equal(other.encode(texts), tokenizer.encode(texts))


def test_trim_keeps_every_token(tokenizer):
    tokens = tokenizer.encode(["a! " * 5, "!"])  # "!" has the id of the padding, 0
    assert trim(tokens).shape == (2, 16)
    np.testing.assert_array_equal(np.pad(trim(tokens), [(0, 0), (0, 61)]), tokens)
    assert trim(tokenizer.encode(["word " * 80])).shape == (1, 77)
    assert trim(tokenizer.encode([])).shape == (0, 8)
    assert tokenizer.encode(["a b"], 2).tolist() == [[49406, 49407]]
    with pytest.raises(ValueError, match="context_length"):
        tokenizer.encode(["a"], 1)


BASIC = [*byte_symbols(), *(symbol + "</w>" for symbol in byte_symbols())]
SMALL = {token: id_ for id_, token in enumerate(BASIC)}
SMALL |= {"<|startoftext|>": 512, "<|endoftext|>": 513}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", '{"model": {"type": "WordPiece", "vocab": {}}}'),
        ("tokenizer.json", '{"model": {"end_of_word_suffix": "</w>", "vocab": {}}}'),
        ("tokenizer.json", "[]"),
        ("vocab.json", json.dumps(SMALL)),  # without the id of the merge
        ("vocab.json", json.dumps(SMALL | {"ab": 600})),
        ("vocab.json", json.dumps(SMALL | {"ab": 514})),  # the end is not the largest
        ("vocab.json", json.dumps(SMALL | {"ab": 513, "<|endoftext|>": "514"})),
        ("vocab.json", json.dumps(SMALL | {"ab": 513, "<|endoftext|>": 514})[:-9]),
    ],
)
def test_other_vocabularies_are_refused(tmp_path, name, content):
    """Broken by: a vocabulary with gaps, which gives wrong ids in silence."""
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    sound = SMALL | {"ab": 513, "<|endoftext|>": 514}
    (tmp_path / "vocab.json").write_text(json.dumps(sound))
    assert Tokenizer.from_directory(tmp_path).byte_pairs(["ab"]) == [[64, 321]]
    (tmp_path / name).write_text(content)
    with pytest.raises(VocabularyError, match=name):
        Tokenizer.from_directory(tmp_path)


def test_faulty_merges_are_refused(tmp_path):
    with pytest.raises(VocabularyError, match=str(tmp_path)):
        Tokenizer.from_directory(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n\na b c\n")
    with pytest.raises(VocabularyError, match="merges.txt:4"):
        read_merges(tmp_path / "merges.txt")
    for merge, size in ((("a", "b"), 516), (("ab", "c"), 515)):
        with pytest.raises(VocabularyError):
            write_tokenizer(tmp_path / "new", [merge], vocab_size=size)
    assert not (tmp_path / "new").exists()
