"""Texts of a data set on disk: one file per class, ROOT/wiki/desc_LABEL.txt.

VL-LTR (Section 3.1) takes the text of a class from its Wikipedia page. Any text will
do; a line that starts with `==` opens a section.
"""

from pathlib import Path

from vl_ltr_jax.data.root import RootLike, read_file
from vl_ltr_jax.runtime.errors import UserError


class TextError(UserError):
    """A text that is missing or cannot be decoded."""


def text_path(root: RootLike, label: int) -> Path:
    """Returns the path of a class's text."""
    return Path(root) / "wiki" / f"desc_{label}.txt"


def decode(data: bytes, where: str, encoding: str = "auto") -> tuple[str, str]:
    r"""Decodes a text; line ends become `\n`.

    Differs from VL-LTR: its encoding of first choice is the locale's, then GBK.

    Args:
      data: content of a file.
      where: name of the file in errors.
      encoding: codec of Python; `auto` is UTF-8, or else GBK. The bytes of many other
        encodings pass for GBK.

    Returns:
      The text without a byte order mark, and the codec.

    Raises:
      TextError: the codec is unknown or cannot decode the bytes.
    """
    check_encoding(encoding)
    codec = "utf-8" if encoding == "auto" else encoding
    try:
        text = data.decode(codec)
    except UnicodeError as error:
        line = data.count(b"\n", 0, getattr(error, "start", 0)) + 1
        fault = TextError(
            f"{where}:{line}: not {codec} ({error}). Save the file as UTF-8, or name "
            "the encoding of texts in data.text_encoding."
        )
        if encoding != "auto":
            raise fault from None
        codec = "gbk"
        try:
            text = data.decode(codec)
        except UnicodeError:
            raise fault from None
    if "\0" in text:
        raise TextError(
            f"{where}: contains NUL characters, as UTF-16 read as {codec} does. Name "
            "the encoding of texts in data.text_encoding."
        )
    text = text.removeprefix("\ufeff")
    return text.replace("\r\n", "\n").replace("\r", "\n"), codec


def check_encoding(encoding: str) -> None:
    """Checks the name of an encoding.

    Raises:
      TextError: Python has no text codec of that name.
    """
    try:
        "".encode("utf-8" if encoding == "auto" else encoding)
    except (LookupError, ValueError) as error:
        raise TextError(
            f"{error}. Write 'auto', or a text codec of Python such as 'cp1252'."
        ) from None


def read_text_file(path: Path, encoding: str = "auto") -> str:
    """Returns the text of a file, see :func:`decode`.

    Raises:
      FileError: the file cannot be read.
      TextError: the file cannot be decoded.
    """
    return decode(read_file(path), str(path), encoding)[0]


def read_texts(
    root: RootLike, num_classes: int, encoding: str = "auto"
) -> tuple[str, ...]:
    """Returns the texts of C classes, in label order.

    Raises:
      FileError: a text cannot be read.
      TextError: a class has no text, or it cannot be decoded.
    """
    check_texts(root, num_classes)
    paths = (text_path(root, label) for label in range(num_classes))
    return tuple(read_text_file(path, encoding) for path in paths)


def check_texts(root: RootLike, num_classes: int) -> None:
    """Checks that each of C classes has a text.

    Raises:
      TextError: texts are missing.
    """
    paths = [text_path(root, label) for label in range(num_classes + 1)]
    missing = [label for label, path in enumerate(paths) if not path.is_file()]
    numbered_from_1 = missing == [0]
    missing = [label for label in missing if label < num_classes]
    if not missing:
        return
    labels = ", ".join(map(str, missing[:5])) + (", ..." * (len(missing) > 5))
    mend = (
        "Write it (empty, for prompts alone), fetch it with `python -m "
        "vl_ltr_jax.data.fetch_text`, or set data.texts='none'."
    )
    if numbered_from_1:
        mend = "The files seem to count from 1; labels count from 0."
    raise TextError(
        f"{paths[missing[0]]} does not exist; {len(missing)} of {num_classes} classes "
        f"have no text (labels {labels}). {mend}"
    )
