"""The texts of a data set on disk: one file per class, ROOT/wiki/desc_LABEL.txt.

VL-LTR (Section 3.1) takes the text of a class from its Wikipedia page. Any text will
do; lines such as `== Habitat ==` open a section. Where ROOT/wiki is no directory, the
files are read from an archive as it was downloaded: ROOT/wiki.zip, wiki.tar,
wiki.tar.gz or wiki.tgz, with any folders inside. Nothing is unpacked to the disk.
"""

import codecs
import contextlib
import difflib
import encodings.aliases
import functools
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO

ARCHIVES = ("wiki.zip", "wiki.tar", "wiki.tar.gz", "wiki.tgz")
LARGEST_TEXT = 64 * 2**20  # bytes of a member; a million sentences are 150 MB
LARGEST_TOTAL = 4 * 2**30  # bytes of all members
_MEMBER = re.compile(r"desc_(0|[1-9]\d{0,8})\.txt")
_MARKS = (  # that of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CODECS = "utf-8, utf-16, gbk, gb18030, big5, shift_jis, euc_kr, cp1252, koi8-r, ..."
_Entry = tuple[str, Callable[[], IO[bytes] | None]]


class ArchiveError(ValueError):
    """An archive of texts that cannot be used as it is."""


def text_path(root: str | Path, label: int) -> Path:
    """Where the text of a class lies: ROOT/wiki/desc_LABEL.txt, labels from 0."""
    return Path(root) / "wiki" / f"desc_{label}.txt"


def decode(data: bytes, where: str, encoding: str = "auto") -> tuple[str, str]:
    r"""Decodes a text; line ends become `\n`.

    Differs from VL-LTR: its encoding of first choice is the locale's, then GBK.

    Args:
        data: the bytes of a file.
        where: names the file in errors.
        encoding: any text codec of Python, or `auto`: UTF-16 or UTF-32 where the byte
            order mark says so, else UTF-8, or else GBK, for which bytes of many other
            encodings pass.

    Returns:
        The text, without a byte order mark, and the codec that decoded it: with `auto`
        one of `utf-8`, `utf-16`, `utf-32` and `gbk`.

    Raises:
        ValueError: an unknown codec, or bytes that it cannot decode; names the line.
    """
    codec = check_encoding(encoding)
    mend = "save it as UTF-8, or name the encoding of texts (data.text_encoding)"
    if codec == "auto":
        codec = next((c for mark, c in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(codec)
    except UnicodeError as fault:
        where = _place(data, where, codec, fault)
        if encoding != "auto" or codec != "utf-8":
            raise ValueError(f"{where}; {mend}") from None
        try:
            text, codec = data.decode("gbk"), "gbk"
        except UnicodeDecodeError:
            raise ValueError(
                f"{where}, and the file is not GBK either; {mend}"
            ) from None
    if text.count("\0") > len(text) / 4:
        raise ValueError(
            f"{where}: it has zero bytes between letters, as UTF-16 without a byte "
            f"order mark has when it is read as {codec.upper()}; {mend}"
        )
    text = text.removeprefix("\ufeff")
    return text.replace("\r\n", "\n").replace("\r", "\n"), codec


def check_encoding(encoding: str) -> str:
    """Python's own name of a codec, or `auto`.

    Raises:
        ValueError: Python has no such text codec; names the nearest.
    """
    if encoding == "auto":
        return encoding
    try:
        codec = codecs.lookup(encoding).name
        with contextlib.suppress(UnicodeError):
            b"a".decode(codec)  # refuses codecs that are not of texts, such as hex
        return codec
    except (LookupError, ValueError):
        aliases = encodings.aliases.aliases
        names = sorted({"auto", *aliases, *aliases.values()})
        given = encoding.lower().replace("-", "_")
        near = difflib.get_close_matches(given, names, n=3)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(
            f"the encoding of texts is {encoding!r}; allowed: 'auto', or a text codec "
            f"of Python ({_CODECS}).{hint}"
        ) from None


def _place(data: bytes, where: str, codec: str, fault: UnicodeError) -> str:
    """Which byte of which line is not of the codec."""
    name = codec.upper()
    if not isinstance(fault, UnicodeDecodeError):
        return f"{where} is not {name} ({fault})"
    # As text: in UTF-16, a byte 10 need not be an end of line.
    line = data[: fault.start].decode(codec, "ignore").count("\n") + 1
    return (
        f"{where}:{line}: the byte 0x{data[fault.start]:02x} is not {name} "
        f"({fault.reason}; byte {fault.start} of the file)"
    )


def read_text_file(path: Path, encoding: str = "auto") -> str:
    r"""Reads a text file; see :func:`decode`. Line ends become `\n`.

    Raises:
        ValueError: an unknown codec, or a file that cannot be decoded; names the line.
    """
    return decode(path.read_bytes(), str(path), encoding)[0]


def read_texts(
    root: str | Path, num_classes: int, encoding: str = "auto"
) -> tuple[str, ...]:
    """Reads the text of every class, in label order.

    Args:
        root: the data set's directory.
        num_classes: C; the files are desc_0.txt to desc_{C-1}.txt.
        encoding: of every file, see :func:`decode`.

    Raises:
        ValueError: an unknown codec, a class without a file, an archive that cannot be
            read, or a file that cannot be decoded.
    """
    check_encoding(encoding)
    return tuple(
        decode(data, where, encoding)[0] for where, data in raw_texts(root, num_classes)
    )


def raw_texts(root: str | Path, num_classes: int) -> Iterator[tuple[str, bytes]]:
    """Each class's file as it is, in label order: what to call it, and its bytes.

    Raises:
        ValueError: a class without a file, or an archive that cannot be read.
    """
    root = Path(root)
    folder = text_path(root, 0).parent
    archives = [root / name for name in ARCHIVES if (root / name).is_file()]
    if folder.is_dir() or not archives:
        paths = [text_path(root, label) for label in range(num_classes + 1)]
        there = {label for label, path in enumerate(paths) if path.is_file()}
        where = f"in {folder}"
        if archives:
            where += (
                f" ({archives[0].name} is not read where there is such a directory)"
            )
        elif not folder.is_dir():
            where += f", nor is there {', '.join(ARCHIVES[:-1])} or {ARCHIVES[-1]}"
        _check_all_there(there, num_classes, where)
        return ((str(path), path.read_bytes()) for path in paths[:num_classes])
    if len(archives) > 1:
        raise ArchiveError(
            f"{' and '.join(map(str, archives))} may differ; keep the one to be read"
        )
    members, there = _read_members(archives[0], num_classes)
    _check_all_there(there, num_classes, f"in {archives[0]}")
    return (members[label] for label in range(num_classes))


def _check_all_there(there: Collection[int], num_classes: int, where: str) -> None:
    missing = sorted(set(range(num_classes)).difference(there))
    if not missing:
        return
    labels = ", ".join(map(str, missing[:5])) + (", ..." * (len(missing) > 5))
    if missing == [0] and num_classes in there:
        mend = "the files seem to be numbered from 1, while labels start at 0"
    else:
        mend = (
            "write it (empty, if prompts are all the class shall have); `python -m "
            "vl_ltr_jax.data.fetch_text` writes texts, and data.texts='none' trains on "
            "prompts alone"
        )
    raise ValueError(
        f"{len(missing)} of {num_classes} classes have no text (labels {labels}): "
        f"desc_{missing[0]}.txt does not exist {where}; {mend}"
    )


def _read_members(
    archive: Path, num_classes: int
) -> tuple[dict[int, tuple[str, bytes]], set[int]]:
    """The texts of the classes, by label, and all labels that have one."""
    names: dict[int, str] = {}
    texts: dict[int, tuple[str, bytes]] = {}
    total, where = 0, str(archive)
    entries = _zip_entries if archive.suffix == ".zip" else _tar_entries
    try:
        # In their order: to go back in a compressed tar is to start over.
        for name, open_member in entries(archive):
            match = _MEMBER.fullmatch(re.split(r"[/\\]", name)[-1])
            if not match:
                continue
            label, where = int(match[1]), f"{archive}:{name}"
            if label in names:
                raise ArchiveError(
                    f"{where}: {names[label]} is the text of class {label} too; leave "
                    "one of them"
                )
            names[label] = name
            if label < num_classes:
                texts[label] = where, _read_member(where, open_member)
                total += len(texts[label][1])
            if total > LARGEST_TOTAL:
                raise ArchiveError(
                    f"{where}: the texts up to here have {total} bytes, over the "
                    f"{LARGEST_TOTAL} that are read of an archive; unpack it to wiki/"
                )
    except ArchiveError:
        raise
    except Exception as fault:  # damage shows as any of a dozen errors
        raise ArchiveError(
            f"{where} cannot be read ({fault or type(fault).__name__}); is the archive "
            "whole, of the kind its name says, and without a password?"
        ) from fault
    return texts, set(names)


def _read_member(where: str, open_member: Callable[[], IO[bytes] | None]) -> bytes:
    file = open_member()
    if file is None:
        raise ArchiveError(
            f"{where} is no file but a link or the like; put a text there"
        )
    with file:
        data = file.read(LARGEST_TEXT + 1)  # whatever size the archive claims
    if len(data) > LARGEST_TEXT:
        raise ArchiveError(
            f"{where} has over {LARGEST_TEXT} bytes, too many for the text of a class; "
            "shorten it, or unpack the archive to wiki/"
        )
    return data


def _zip_entries(path: Path) -> Iterator[_Entry]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            opened = functools.partial(archive.open, member)
            is_link = stat.S_ISLNK(member.external_attr >> 16)
            yield member.filename, (lambda: None) if is_link else opened


def _tar_entries(path: Path) -> Iterator[_Entry]:
    with tarfile.open(path) as archive:
        for member in archive:
            opened = functools.partial(archive.extractfile, member)
            yield member.name, opened if member.isreg() else (lambda: None)
        if archive.fileobj:  # the checksum of a compressed archive stands at its end
            all(iter(functools.partial(archive.fileobj.read, 2**20), b""))
