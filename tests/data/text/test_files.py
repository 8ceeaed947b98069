"""Texts of classes on disk: encodings, line ends, and missing files."""

from pathlib import Path

import pytest

from vl_ltr_jax.data.root import FileError
from vl_ltr_jax.data.text.corpus import build_corpus
from vl_ltr_jax.data.text.files import (
    TextError,
    check_encoding,
    decode,
    read_text_file,
    read_texts,
)


def wiki(root: Path, *texts: bytes) -> Path:
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
        ("utf-16", "utf-16", "utf-16"),
    ],
)
def test_every_encoding_gives_the_same_corpus(
    tmp_path: Path, codec: str, encoding: str, used: str
) -> None:
    """Broken by: a byte order mark that stays in the first sentence."""
    texts = ["大 is a heron.\r\n== Tail ==\r\n水中 it swims? Never", "A bird.\r"]
    plain = build_corpus(["a", "b"], [text.replace("\r", "") for text in texts])
    root = wiki(tmp_path, *(text.encode(codec) for text in texts))
    corpus = build_corpus(["a", "b"], read_texts(root, 2, encoding))
    assert corpus.sentences == plain.sentences
    data = texts[0].encode(codec)
    assert decode(data, "x", encoding) == (texts[0].replace("\r", ""), used)


def test_line_ends_of_all_systems(tmp_path: Path) -> None:
    root = wiki(tmp_path, b"\xef\xbb\xbfA.\r\nB.\rC.\n")
    assert read_texts(root, 1) == ("A.\nB.\nC.\n",)


@pytest.mark.parametrize("encoding", ["cp1225", "hex", "a\0"])
def test_unknown_encodings_are_refused(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(TextError):
        check_encoding(encoding)
    with pytest.raises(TextError):
        read_texts(wiki(tmp_path, b"A."), 1, encoding)


@pytest.mark.parametrize(
    ("data", "encoding", "place"),
    [
        (b"fine.\nnot \xff fine.\n", "auto", "desc_0.txt:2"),
        (b"a\r\n\r\n\x81.", "cp1252", "desc_0.txt:3"),
        ("UTF-16.".encode("utf-16-le"), "auto", "desc_0.txt"),
    ],
)
def test_undecodable_text_is_named(
    tmp_path: Path, data: bytes, encoding: str, place: str
) -> None:
    with pytest.raises(TextError, match=place) as raised:
        read_texts(wiki(tmp_path, data), 1, encoding)
    assert "data.text_encoding" in str(raised.value)


def test_class_without_text_is_named(tmp_path: Path) -> None:
    wiki(tmp_path)
    with pytest.raises(TextError, match="desc_0.txt"):
        read_texts(tmp_path, 1)
    (tmp_path / "wiki" / "desc_1.txt").write_text("B.")
    with pytest.raises(TextError, match=r"desc_0.txt .*2 of 3 .*labels 0, 2"):
        read_texts(tmp_path, 3)
    with pytest.raises(TextError, match=r"desc_0.txt .*count from 1"):
        read_texts(tmp_path, 1)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="absent.txt"):
        read_text_file(tmp_path / "absent.txt")
