"""Long-tailed data sets from list files: `relative/path.jpg label` on each line."""

from collections.abc import Mapping
from pathlib import Path

from vl_ltr_jax.data.root import RootLike
from vl_ltr_jax.data.sources.dataset import WIKI, LongTailedData, Texts
from vl_ltr_jax.data.sources.faults import Faults, Kind, ListError, Offender
from vl_ltr_jax.data.sources.rows import Rows, from_rows, read_names
from vl_ltr_jax.data.text.files import read_text_file
from vl_ltr_jax.logs.messages import near_name, shortened


def read_image_list(
    root: RootLike,
    name: str,
    layout: str = "plain",
    *,
    lists: Mapping[str, str] | None = None,
    texts: Texts = WIKI,
    faults: Faults | None = None,
) -> LongTailedData:
    """Reads a data set from list files.

    Args:
      root: directory of the lists, which the listed paths are relative to; a leading
        slash of a path is ignored, and paths with `..` must stay below the root.
      name: of the data set; its lists are `root/NAME_{train,val,test}.txt`.
      layout: see `class_names.read_class_names`.
      lists: other file names under `root` by split; '' is the default.
      texts: place of the texts.
      faults: None raises the first fault.

    Raises:
      ListError: names the list, the line and the remedy.
      SplitOverlapError: an image is listed for training and for testing.
    """
    root, lists, faults = Path(root), lists or {}, faults or Faults()

    def read(split: str) -> Rows:
        file = root / (lists.get(split) or f"{name}_{split}.txt")
        return _read_list(file, faults)

    names = read_names(root, layout, faults)
    return from_rows(name, root, names, read, texts, faults)


def _read_list(file: Path, faults: Faults) -> Rows:
    if not file.is_file():
        near = [path.name for path in file.parent.glob("*.txt") if path.is_file()]
        raise ListError(
            f"no list {file}{near_name(file.name, near)}. Name the lists "
            "ROOT/NAME_{train,val,test}.txt, or set data.train_list, data.val_list and "
            "data.test_list."
        )
    numbers, paths, labels = [], [], []
    malformed: list[tuple[int, str]] = []
    lines = read_text_file(file).rstrip().split("\n")
    for number, line in enumerate(lines, 1):
        match line.rsplit(maxsplit=1):
            case [path, label] if _is_number(label):
                numbers.append(number)
                paths.append(path)
                labels.append(int(label))
            case _:
                malformed.append((number, line))
    faults.add(
        Kind(
            "list-row",
            "error",
            "rows of lists that are not 'relative/path label'",
            "write a path, a blank and the label as a whole number, or remove the row",
        ),
        malformed,
        lambda row: Offender(f"{file}:{row[0]}", note=shortened(row[1])),
    )
    return Rows(file, paths, labels, lambda i: f":{numbers[i]}")


def _is_number(label: str) -> bool:
    digits = label.removeprefix("-")
    return digits.isdecimal() and len(digits) <= 9
