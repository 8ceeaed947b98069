"""The texts of a data set on disk: one file per class, ROOT/wiki/desc_LABEL.txt.

VL-LTR (Section 3.1) takes the text of a class from its Wikipedia page. Any text will
do; a line that starts with `==` opens a section. Where ROOT/wiki is no directory, the
files are read from an archive as it was downloaded: ROOT/wiki.zip, wiki.tar,
wiki.tar.gz or wiki.tgz, with any folders inside. Nothing is unpacked to the disk.
"""

import codecs
import contextlib
import difflib
import encodings.aliases
import functools
import gzip
import io
import re
import stat
import sys
import tarfile
import zipfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO, cast

from vl_ltr_jax.data import root as roots
from vl_ltr_jax.data.root import Root, RootLike
from vl_ltr_jax.logs.messages import shortened
from vl_ltr_jax.runtime.errors import UserError

ARCHIVES = ("wiki.zip", "wiki.tar", "wiki.tar.gz", "wiki.tgz")
LARGEST_TEXT = 64 * 2**20  # bytes of a member; a million sentences are 150 MB
LARGEST_TOTAL = 4 * 2**30  # bytes of all members
MOST_MEMBERS = 1_000_000
_MEMBER = re.compile(r"desc_(0|[1-9]\d{0,8})\.txt", re.ASCII)
_HALF = re.compile("[\ud800-\udfff]")
_NOT_OF_TEXTS = ("idna", "punycode", "unicode-escape", "raw-unicode-escape")
_LONGEST_NAME = 100  # of a codec
_LARGEST_STREAM = 5 * 2**30  # bytes of a tar, headers and what is no text included
# Of a member of a tar, in bytes; a search of tarfile takes the square of it.
_LARGEST_HEADER = 16 * 2**10
_MARKS = (  # that of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CODECS = "utf-8, utf-16, gbk, gb18030, big5, shift_jis, euc_kr, cp1252, koi8-r, ..."
_Entry = tuple[str, Callable[[], IO[bytes] | None]]


class TextError(UserError):
    """A text that is missing or cannot be decoded."""


class ArchiveError(TextError):
    """An archive of texts that cannot be used as it is."""


def text_name(label: int) -> str:
    """Where the text of a class lies under the root."""
    return f"wiki/desc_{label}.txt"


def text_path(root: RootLike, label: int) -> Path:
    """Where the text of a class lies: ROOT/wiki/desc_LABEL.txt, labels from 0."""
    return Path(root) / text_name(label)


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
            raise TextError(f"{where}; {mend}") from None
        try:
            text, codec = data.decode("gbk"), "gbk"
        except UnicodeDecodeError:
            raise TextError(
                f"{where}, and the file is not GBK either; {mend}"
            ) from None
    if half := _HALF.search(text):  # UTF-7 has them, and no file can hold them
        raise TextError(
            f"{where}: as {codec.upper()} it has the half character "
            f"U+{ord(half[0]):04X}; {mend}"
        )
    if text.count("\0") > len(text) / 4:
        raise TextError(
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
        if len(encoding) > _LONGEST_NAME:
            raise LookupError
        codec = codecs.lookup(encoding).name
        if codec in _NOT_OF_TEXTS:
            raise LookupError
        with contextlib.suppress(UnicodeError):
            b"a".decode(codec)  # refuses codecs that are not of texts, such as hex
        return codec
    except (LookupError, ValueError):
        aliases = encodings.aliases.aliases
        names = sorted({"auto", *aliases, *aliases.values()})
        given = encoding[:_LONGEST_NAME].lower().replace("-", "_")
        near = difflib.get_close_matches(given, names, n=3)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise TextError(
            f"the encoding of texts is {shortened(encoding)}; allowed: 'auto', or a "
            f"text codec of Python ({_CODECS}).{hint}"
        ) from None


def _place(data: bytes, where: str, codec: str, fault: UnicodeError) -> str:
    """Which byte of which line is not of the codec."""
    name = codec.upper()
    if not isinstance(fault, UnicodeDecodeError):
        return f"{where} is not {name} ({fault})"
    # As text: in UTF-16, a byte 10 need not be an end of line.
    try:
        line = data[: fault.start].decode(codec, "ignore").count("\n") + 1
    except UnicodeError:  # a codec that can ignore nothing
        return f"{where} is not {name} ({fault.reason})"
    return (
        f"{where}:{line}: the byte 0x{data[fault.start]:02x} is not {name} "
        f"({fault.reason}; byte {fault.start} of the file)"
    )


def read_text_file(
    path: Path, encoding: str = "auto", *, largest: int = LARGEST_TEXT
) -> str:
    r"""Reads a text file; see :func:`decode`. Line ends become `\n`.

    Args:
        path: of the file; of a data set's, one that `Root.check` has let pass.
        encoding: see :func:`decode`.
        largest: bytes that it may have.

    Raises:
        ValueError: an unknown codec, a file that is missing, too large or no regular
            one, or that cannot be decoded; names the line.
    """
    try:
        data = roots.read_regular(path, largest)
    except OSError as error:
        raise roots.file_error(path, error) from None
    return decode(data, str(path), encoding)[0]


def read_texts(
    root: RootLike, num_classes: int, encoding: str = "auto"
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


def raw_texts(root: RootLike, num_classes: int) -> Iterator[tuple[str, bytes]]:
    """Each class's file as it is, in label order: what to call it, and its bytes.

    Raises:
        ValueError: a class without a file, a file outside the root or no regular one,
            or an archive that cannot be read.
    """
    root = Root.of(root)
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
        return _read_folder(root, num_classes)
    if len(archives) > 1:
        raise ArchiveError(
            f"{' and '.join(map(str, archives))} may differ; keep the one to be read"
        )
    members, there = _read_members(root.check(archives[0].name), num_classes)
    _check_all_there(there, num_classes, f"in {archives[0]}")
    return (members[label] for label in range(num_classes))


def _read_folder(root: Root, num_classes: int) -> Iterator[tuple[str, bytes]]:
    total = 0
    for label in range(num_classes):
        where = str(text_path(root, label))
        data = root.read(text_name(label), LARGEST_TEXT)
        total += len(data)
        if total > LARGEST_TOTAL:
            raise TextError(
                f"{where}: the texts up to here have {total} bytes, over the "
                f"{LARGEST_TOTAL} that are read; shorten them"
            )
        yield where, data


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
    raise TextError(
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


def _check_number(archive: Path, number: int) -> None:
    if number > MOST_MEMBERS:
        raise ArchiveError(
            f"{archive} has more than {MOST_MEMBERS} members, too many for an archive "
            "of texts; unpack it to wiki/"
        )


def _zip_entries(path: Path) -> Iterator[_Entry]:
    with zipfile.ZipFile(path) as archive:
        _check_number(path, len(archive.infolist()))
        for member in archive.infolist():
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ArchiveError(
                    f"{path}:{member.filename} is compressed by method "
                    f"{member.compress_type}, which is not read; make the archive with "
                    "`zip`, or unpack it to wiki/"
                )
            opened = functools.partial(archive.open, member)
            is_link = stat.S_ISLNK(member.external_attr >> 16)
            yield member.filename, (lambda: None) if is_link else opened


def _tar_entries(path: Path) -> Iterator[_Entry]:
    with path.open("rb") as file:
        packed = file.peek(2)[:2] == b"\x1f\x8b"
        unpacked: io.BufferedIOBase = gzip.GzipFile(fileobj=file) if packed else file
        bounded = _Bounded(path, unpacked, _LARGEST_STREAM if packed else sys.maxsize)
        with tarfile.open(fileobj=cast(IO[bytes], bounded), mode="r:") as archive:
            for number, member in enumerate(archive, 1):
                _check_number(path, number)
                bounded.most = sys.maxsize  # who opens a member reads what is wanted
                opened = functools.partial(archive.extractfile, member)
                yield member.name, opened if member.isreg() else (lambda: None)
                bounded.most = _LARGEST_HEADER
        while packed and unpacked.read(2**20):  # to the checksum, which stands last
            bounded.seek(unpacked.tell())


class _Bounded:
    """What tarfile sees of a file: its headers may claim any size and place."""

    def __init__(self, path: Path, file: io.BufferedIOBase, end: int):
        self._path, self._file, self._end = path, file, end
        self.most = _LARGEST_HEADER

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self.most:
            raise ArchiveError(f"{self._path} claims a header of {size} bytes")
        return self._file.read(size)

    def seek(self, place: int) -> int:
        if not 0 <= place <= self._end:
            raise ArchiveError(
                f"{self._path} goes on at byte {place}, past the {self._end} that are "
                "read; unpack it to wiki/"
            )
        return self._file.seek(place)

    def tell(self) -> int:
        return self._file.tell()
