"""The texts of a data set on disk: one file per class, ROOT/wiki/desc_LABEL.txt.

VL-LTR (Section 3.1) takes the text of a class from its Wikipedia page. Any text will
do; lines such as `== Habitat ==` open a section.
"""

from pathlib import Path


def text_path(root: str | Path, label: int) -> Path:
    """Where the text of a class lies: ROOT/wiki/desc_LABEL.txt, labels from 0."""
    return Path(root) / "wiki" / f"desc_{label}.txt"


def read_text_file(path: Path) -> str:
    r"""Reads a UTF-8 file, or a GBK one where it is not UTF-8; line ends become `\n`.

    Differs from VL-LTR: its encoding of first choice is the locale's.

    Raises:
        ValueError: in neither encoding; names the file and the line.
    """
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as utf8_fault:
        try:
            text = data.decode("gbk")
        except UnicodeDecodeError:
            line = data.count(b"\n", 0, utf8_fault.start) + 1
            raise ValueError(
                f"{path}:{line}: the byte 0x{data[utf8_fault.start]:02x} is not UTF-8, "
                "and the file is not GBK either; save it as UTF-8"
            ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_texts(root: str | Path, num_classes: int) -> tuple[str, ...]:
    """Reads the text of every class, in label order.

    Args:
        root: the data set's directory.
        num_classes: C; the files are desc_0.txt to desc_{C-1}.txt.

    Raises:
        ValueError: a class without a file, or a file that cannot be decoded.
    """
    paths = [text_path(root, label) for label in range(num_classes)]
    missing = [label for label, path in enumerate(paths) if not path.is_file()]
    if missing:
        labels = ", ".join(map(str, missing[:5])) + (", ..." * (len(missing) > 5))
        if missing == [0] and text_path(root, num_classes).is_file():
            mend = "the files seem to be numbered from 1, while labels start at 0"
        else:
            mend = "write it (empty, if prompts are all the class shall have)"
        raise ValueError(
            f"{len(missing)} of {num_classes} classes have no text (labels {labels}): "
            f"{paths[missing[0]]} does not exist; {mend}"
        )
    return tuple(read_text_file(path) for path in paths)
