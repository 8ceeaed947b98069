"""Texts in directories and archives, in several encodings, and what is wrong there."""

import io
import random
import tarfile
import zipfile
from pathlib import Path

import pytest

from vl_ltr_jax.data.text import files
from vl_ltr_jax.data.text.corpus import build_corpus
from vl_ltr_jax.data.text.files import (
    ArchiveError,
    check_encoding,
    decode,
    raw_texts,
    read_text_file,
    read_texts,
)

TEXTS = ("A heron. It is grey.\n", "== Tail ==\nÉté: 蓝鲸 is long.\n", "")


def wiki(root: Path, *texts: bytes) -> Path:
    (root / "wiki").mkdir()
    for label, text in enumerate(texts):
        (root / "wiki" / f"desc_{label}.txt").write_bytes(text)
    return root


def write_zip(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_archive(path: Path, members: dict[str, bytes]) -> None:
    (write_zip if path.suffix == ".zip" else write_tar)(path, members)


def named(folder: str, *texts: str) -> dict[str, bytes]:
    """Members of an archive, the last class first."""
    labelled = reversed(list(enumerate(texts)))
    return {f"{folder}desc_{label}.txt": text.encode() for label, text in labelled}


@pytest.mark.parametrize(
    ("codec", "mark", "encoding", "used"),
    [
        ("utf-8", b"", "auto", "utf-8"),
        ("utf-8-sig", b"", "auto", "utf-8"),
        ("utf-16", b"", "auto", "utf-16"),
        ("utf-16-be", b"\xfe\xff", "auto", "utf-16"),
        ("utf-32", b"", "auto", "utf-32"),
        ("gbk", b"", "auto", "gbk"),
        ("big5", b"", "big5", "big5"),
        ("shift_jis", b"", "Shift-JIS", "shift_jis"),
        ("euc_kr", b"", "EUC_KR", "euc_kr"),
        ("utf-8-sig", b"", "UTF8", "utf-8"),
        ("utf-16-le", b"\xff\xfe", "utf-16-le", "utf-16-le"),
    ],
)
def test_every_encoding_gives_the_same_corpus(
    tmp_path: Path, codec: str, mark: bytes, encoding: str, used: str
) -> None:
    """Broken by: a byte order mark left in the first sentence, GBK before UTF-16."""
    texts = ["大 is a heron.\r\n== Tail ==\r\n水中 it swims? Never", "A bird.\r"]
    plain = build_corpus(["a", "b"], [text.replace("\r", "") for text in texts])
    root = wiki(tmp_path, *(mark + text.encode(codec) for text in texts))
    found = build_corpus(["a", "b"], read_texts(root, 2, encoding))
    assert found.sentences == plain.sentences
    data = mark + texts[0].encode(codec)
    assert decode(data, "x", encoding) == (texts[0].replace("\r", ""), used)


def test_line_ends_of_all_systems(tmp_path: Path) -> None:
    root = wiki(tmp_path, b"\xef\xbb\xbfA.\r\nB.\rC.\n")
    assert read_texts(root, 1) == ("A.\nB.\nC.\n",)


def test_one_byte_encodings_have_to_be_named(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes("“Żaba” — Łódź".encode("cp1250"))
    assert read_text_file(path, "cp1250") == "“Żaba” — Łódź"
    path.write_bytes("цапля".encode("koi8-r"))
    assert read_text_file(path, "KOI8-R") == "цапля"


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("cp1225", r"is 'cp1225'; allowed: 'auto', .*Did you mean 'cp125"),
        ("shift-jsi", r"Did you mean .*'shift_jis'"),
        ("atuo", r"Did you mean 'auto'"),
        ("hex", r"is 'hex'; allowed"),  # of bytes, not of texts
        ("a\0", r"is 'a\\x00'; allowed: .*\.\.\.\)\.$"),
    ],
)
def test_unknown_encodings_are_named_before_a_text_is_read(
    tmp_path: Path, encoding: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_texts(tmp_path, 1, encoding)
    with pytest.raises(ValueError, match=message):
        check_encoding(encoding)


@pytest.mark.parametrize(
    ("data", "encoding", "message"),
    [
        (b"fine.\nnot \xff fine.\n", "auto", r":2: the byte 0xff is not UTF-8 .*GBK"),
        (
            b"a\r\n\r\n\x81.",
            "cp1252",
            r":3: the byte 0x81 is not CP1252 \(.* byte 5 of",
        ),
        (
            b"\xff\xfe\n\x0a\n\0\0\xd8\n\0",
            "auto",
            r":2: the byte 0x00 is not UTF-16 \([^)]*\); save",
        ),
        (b"\xff\xfea\0b", "auto", r":1: the byte 0x62 is not UTF-16 \(truncated"),
        (b"fine +2AA-", "utf-7", r": as UTF-7 it has the half character U\+D800"),
        (b"a", "undefined", r"desc_0.txt is not UNDEFINED"),
    ],
)
def test_undecodable_text_is_named_with_its_line(
    tmp_path: Path, data: bytes, encoding: str, message: str
) -> None:
    """Broken by: lines of UTF-16 counted by bytes 10, which U+0A0A has two of."""
    with pytest.raises(ValueError, match=f"desc_0.txt{message}|{message}"):
        read_texts(wiki(tmp_path, data), 1, encoding)


def test_class_without_text_is_named(tmp_path: Path) -> None:
    wiki(tmp_path)
    (tmp_path / "wiki" / "desc_1.txt").write_text("B.")
    with pytest.raises(
        ValueError, match=r"2 of 3 .*\(labels 0, 2\): .*desc_0.txt does"
    ) as caught:
        read_texts(tmp_path, 3)
    assert "`python -m vl_ltr_jax.data.fetch_text`" in str(caught.value)
    assert "data.texts='none' trains on prompts alone" in str(caught.value)
    with pytest.raises(ValueError, match=r"desc_0.txt .* numbered from 1"):
        read_texts(tmp_path, 1)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"wiki, nor is there wiki.zip, .* wiki.tgz"):
        read_texts(tmp_path, 1)


@pytest.mark.parametrize("name", files.ARCHIVES)
@pytest.mark.parametrize("folder", ["", "wiki/", "./a/b c/wiki/", "a\\wiki\\"])
def test_archives_are_read_as_they_are(tmp_path: Path, name: str, folder: str) -> None:
    """Broken by: members taken in their order, by their whole name, or ._desc_0.txt."""
    others = {
        "__MACOSX/._desc_0.txt": b"\xff",
        "desc_1.txt.bak": b"",
        "desc_x.txt": b"",
    }
    write_archive(tmp_path / name, others | named(folder, *TEXTS, "Too many."))
    assert read_texts(tmp_path, 3) == TEXTS
    assert [path.name for path in tmp_path.iterdir()] == [name]
    where, data = next(raw_texts(tmp_path, 3))
    assert where == f"{tmp_path / name}:{folder}desc_0.txt"
    assert data == TEXTS[0].encode()


def test_a_directory_wins_over_an_archive(tmp_path: Path) -> None:
    write_archive(tmp_path / "wiki.zip", named("", "From the archive."))
    assert read_texts(wiki(tmp_path, b"From the directory."), 1) == (
        "From the directory.",
    )
    (tmp_path / "wiki" / "desc_0.txt").unlink()
    with pytest.raises(ValueError, match=r"wiki \(wiki.zip is not read where there is"):
        read_texts(tmp_path, 1)


def test_two_archives_are_refused(tmp_path: Path) -> None:
    write_archive(tmp_path / "wiki.zip", named("", "A."))
    write_archive(tmp_path / "wiki.tgz", named("", "B."))
    with pytest.raises(ArchiveError, match=r"wiki.zip and \S*wiki.tgz may differ"):
        read_texts(tmp_path, 1)


@pytest.mark.parametrize("name", ["wiki.zip", "wiki.tar.gz"])
def test_faults_of_members_are_named(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken by: a second text of a class that wins, or a size that is not checked."""
    archive = tmp_path / name

    def refused(members: dict[str, bytes], message: str) -> None:
        write_archive(archive, members)
        with pytest.raises(ValueError, match=message) as caught:
            read_texts(tmp_path, 2)
        assert "cannot be read" not in str(caught.value)

    refused(
        {"a/desc_0.txt": b"A.", "desc_1.txt": b"B.", "b/desc_0.txt": b"C."},
        rf"{name}:b/desc_0.txt: a/desc_0.txt is the text of class 0 too",
    )
    refused({"desc_0.txt": b""}, rf"1 of 2 .*desc_1.txt does not exist in \S*{name};")
    refused(
        {"desc_1.txt": b"", "w/desc_0.txt": b"A\n\xff."},
        rf"{name}:w/desc_0.txt:2: the byte 0xff",
    )
    refused({"desc_1.txt": b"", "desc_2.txt": b""}, "numbered from 1")
    monkeypatch.setattr(files, "LARGEST_TOTAL", 19)
    refused(
        named("", "x" * 10, "y" * 10), rf"{name}:desc_0.txt: .* 20 bytes, over the 19"
    )
    monkeypatch.setattr(files, "LARGEST_TEXT", 9)
    refused(named("", "", "y" * 10), rf"{name}:desc_1.txt has over 9 bytes")
    write_archive(archive, named("", "A.", "B.", "y" * 10))
    assert read_texts(tmp_path, 2) == ("A.", "B.")  # no class needs the large one


def test_links_in_archives_are_refused(tmp_path: Path) -> None:
    """Broken by: a link's target, such as /etc/passwd, read as the text of a class."""
    link = zipfile.ZipInfo("desc_0.txt")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "wiki.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(ArchiveError, match=r"wiki.zip:desc_0.txt is no file"):
        read_texts(tmp_path, 1)
    (tmp_path / "wiki.zip").unlink()
    with tarfile.open(tmp_path / "wiki.tar", "w") as tar:
        member = tarfile.TarInfo("desc_0.txt")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(ArchiveError, match=r"wiki.tar:desc_0.txt is no file"):
        read_texts(tmp_path, 1)


@pytest.mark.parametrize("name", files.ARCHIVES)
def test_damaged_archives_are_named(tmp_path: Path, name: str) -> None:
    """Broken by: an error of zipfile, tarfile or zlib that passes through."""
    rng = random.Random(0)
    noise = bytes(rng.choices(b"abcdefghijklmnopqrstuvwxyz .", k=4000))
    write_archive(tmp_path / name, {"desc_0.txt": noise, "desc_1.txt": noise})
    whole = (tmp_path / name).read_bytes()
    for damaged in (b"", whole[:900], whole[1500:], b"no archive" * 99):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(ValueError, match=name):
            read_texts(tmp_path, 2)
    inside = {"wiki.zip": 1000, "wiki.tar": 300}.get(name, -6)  # -6: the checksum
    (tmp_path / name).write_bytes(whole[:inside] + b"?!" + whole[inside + 2 :])
    with pytest.raises(ArchiveError, match=f"{name}.* cannot be read"):
        read_texts(tmp_path, 2)


def test_utf16_without_a_mark_is_not_taken_for_utf8(tmp_path):
    """Its bytes are valid UTF-8, with a zero after every letter."""
    path = tmp_path / "desc_0.txt"
    path.write_bytes("A leaf.".encode("utf-16-le"))
    with pytest.raises(ValueError, match="desc_0.txt: it has zero bytes .*UTF-16"):
        files.read_text_file(path)
    assert files.read_text_file(path, "utf-16-le") == "A leaf."
