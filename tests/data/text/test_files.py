"""Texts of classes on disk: encodings, line ends, and missing files."""

import pytest

from vl_ltr_jax.data.text.corpus import build_corpus
from vl_ltr_jax.data.text.files import TextError, check_encoding, decode, read_texts


def wiki(root, *texts):
    (root / "wiki").mkdir()
    for label, text in enumerate(texts):
        (root / "wiki" / f"desc_{label}.txt").write_bytes(text)
    return root


@pytest.mark.parametrize(
    ("codec", "encoding", "used"),
    [
        ("utf-8", "auto", "utf-8"),
        ("utf-8-sig", "auto", "utf-8"),
        ("gbk", "auto", "gbk"),
        ("big5", "big5", "big5"),
        ("shift_jis", "Shift-JIS", "Shift-JIS"),
    ],
)
def test_every_encoding_gives_the_same_corpus(tmp_path, codec, encoding, used):
    """Broken by: a byte order mark that stays in the first sentence."""
    texts = ["大 is a heron.\r\n== Tail ==\r\n水中 it swims? Never", "A bird.\r"]
    plain = build_corpus(["a", "b"], [text.replace("\r", "") for text in texts])
    root = wiki(tmp_path, *(text.encode(codec) for text in texts))
    corpus = build_corpus(["a", "b"], read_texts(root, 2, encoding))
    assert corpus.sentences == plain.sentences
    data = texts[0].encode(codec)
    assert decode(data, "x", encoding) == (texts[0].replace("\r", ""), used)


@pytest.mark.parametrize("encoding", ["cp1225", "hex", "a\0"])
def test_unknown_encodings_are_refused(tmp_path, encoding):
    with pytest.raises(TextError):
        check_encoding(encoding)
    with pytest.raises(TextError):
        read_texts(wiki(tmp_path, b"A."), 1, encoding)


@pytest.mark.parametrize(
    ("data", "encoding", "place"),
    [
        (b"fine.\nnot \xff.", "auto", ":2"),
        (b"a\r\n\r\n\x81.", "cp1252", ":3"),
        ("UTF-16.".encode("utf-16-le"), "auto", ""),
    ],
)
def test_undecodable_text_is_named(tmp_path, data, encoding, place):
    with pytest.raises(TextError, match=f"desc_0.txt{place}") as raised:
        read_texts(wiki(tmp_path, data), 1, encoding)
    assert "data.text_encoding" in str(raised.value)


def test_class_without_text_is_named(tmp_path):
    wiki(tmp_path)
    with pytest.raises(TextError, match="desc_0.txt"):
        read_texts(tmp_path, 1)
    (tmp_path / "wiki" / "desc_1.txt").write_text("B.")
    with pytest.raises(TextError, match=r"desc_0.txt .*2 of 3 .*labels 0, 2"):
        read_texts(tmp_path, 3)
    with pytest.raises(TextError, match=r"desc_0.txt .*count from 1"):
        read_texts(tmp_path, 1)
