"""Long-tailed data sets from list files: `relative/path.jpg label` on each line."""

from collections.abc import Mapping
from pathlib import Path

from vl_ltr_jax.data.root import RootLike
from vl_ltr_jax.data.sources.dataset import (
    SPLITS,
    WIKI,
    ListError,
    LongTailedData,
    Rows,
    Texts,
    from_rows,
)
from vl_ltr_jax.data.text.class_names import read_class_names
from vl_ltr_jax.data.text.files import read_text_file
from vl_ltr_jax.logs.messages import near_name, shortened


def read_image_list(
    root: RootLike,
    name: str,
    layout: str = "plain",
    *,
    lists: Mapping[str, str] | None = None,
    texts: Texts = WIKI,
) -> LongTailedData:
    """Reads a data set given by list files.

    Args:
      root: directory that holds the lists and that the listed paths are relative to;
        a leading slash of a path is ignored, and paths with `..` must stay below it.
      name: of the data set; the lists are `root/NAME_{train,val,test}.txt`.
      layout: how class names are written, see `class_names.read_class_names`.
      lists: other file names under `root` by split, such as
        `{'train': 'Places_LT_train.txt'}`.
      texts: where the texts are.

    Raises:
      ListError: names the list, the line, and what to change.
      SplitOverlapError: if an image is listed for training and for testing.
    """
    root = Path(root)
    names = {split: f"{name}_{split}.txt" for split in SPLITS} | dict(lists or {})
    if unknown := sorted(set(names) - set(SPLITS)):
        raise ListError(f"lists: {unknown} given, allowed are {list(SPLITS)}")
    class_names = read_class_names(root, layout)
    rows = {split: _read_list(root / names[split]) for split in SPLITS}
    return from_rows(name, root, class_names, rows, texts)


def _read_list(file: Path) -> Rows:
    if not file.is_file():
        near = [path.name for path in file.parent.glob("*.txt") if path.is_file()]
        raise ListError(
            f"no list {file}{near_name(file.name, near)}; name the lists "
            "ROOT/NAME_{train,val,test}.txt or give their file names"
        )
    lines = read_text_file(file).rstrip().split("\n")
    rows = [line.rsplit(maxsplit=1) for line in lines]
    for number, row in enumerate(rows, 1):
        if len(row) != 2 or not row[1].isdecimal() or len(row[1]) > 9:
            raise ListError(
                f"{file}:{number}: {shortened(lines[number - 1])} is not a row "
                "'relative/path label' with a whole number from 0 as label; mend or "
                "remove it"
            )
    paths = [row[0] for row in rows]
    return Rows(file, paths, [int(row[1]) for row in rows], lambda i: f":{i + 1}")
