"""A sound data set of twelve classes, in three forms, and ways to damage it."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from vl_ltr_jax.commands import check_data
from vl_ltr_jax.config.settings import Config, Data

# Not in alphabetical order, and more than ten: 10 and 11 sort before 2.
NAMES = (
    *("tench", "acorn", "violin", "castle", "walrus", "banjo"),
    *("teapot", "zebra", "lighthouse", "mushroom", "sea_lion", "anvil"),
)
COUNTS = {"train": (3,) * 12, "val": (1,) * 12, "test": (2,) * 12}
PROSE = (
    "A {0} is easy to tell by its shape, which has been drawn since the year 1801. "
    "Seen from the side, a {0} looks long and smooth, and its surface shines in the "
    "light of the morning. People keep pictures of every {0} that they meet.\n"
)


def label_file(names: Iterable[str]) -> str:
    return "".join(f"{name} {label}\n" for label, name in enumerate(names))


def _noise(rng, label):
    return rng.integers(0, 256, (16, 20, 3), np.uint8)


def write(root, names=NAMES, counts=COUNTS, prose=PROSE, draw=_noise):
    """Writes list files, a label file, texts and pictures, all sound."""
    rng = np.random.default_rng(0)
    (root / "wiki").mkdir(parents=True)
    (root / "labels.txt").write_text(label_file(names))
    for label, name in enumerate(names):
        text(root, label).write_text(prose.format(name.replace("_", " ")))
        (root / "images" / name).mkdir(parents=True)
    for split, numbers in counts.items():
        lines = []
        for label, name in enumerate(names):
            for index in range(numbers[label]):
                path = f"images/{name}/{split}_{index}.jpg"
                Image.fromarray(draw(rng, label)).save(root / path, quality=90)
                lines.append(f"{path} {label}\n")
        (root / f"world_{split}.txt").write_text("".join(lines))
    return root


def write_inat(root: Path) -> Path:
    """Writes the same as iNaturalist 2018; the test is the validation split."""
    write(root)
    names = [name.replace("_", " ").capitalize() for name in NAMES]
    categories = [{"id": label, "name": name} for label, name in enumerate(names)]
    (root / "categories.json").write_text(json.dumps(categories))
    for split in ("train", "val"):
        images, annotations = [], []
        lines = (root / f"world_{split}.txt").read_text().splitlines()
        for number, line in enumerate(lines, 100):
            path, label = line.split()
            moved = f"train_val2018/Aves/{label}/{Path(path).name}"
            _copy(root / path, root / moved)
            images.append({"id": number, "file_name": moved})
            annotations.append({"image_id": number, "category_id": int(label)})
        content = {"images": images, "annotations": annotations}
        (root / f"{split}2018.json").write_text(json.dumps(content))
    return root


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def write_folders(root: Path) -> Path:
    """Writes the same as directories of classes."""
    write(root)
    for split in COUNTS:
        for line in (root / f"world_{split}.txt").read_text().splitlines():
            path = Path(line.split()[0])
            _copy(root / path, root / split / path.parent.name / path.name)
    return root


def config(root: Path, **options: str | bool) -> Config:
    """Returns a run's configuration; `options` are of the section `data`."""
    section = {"source": "image_list", "name": "world", "prompts": "plain", **options}
    return Config(data=Data(root=str(root), num_threads=2, **section))


def look(root: Path, **options: str | bool) -> check_data.Checked:
    """Checks the data set with these options of the section `data`."""
    return check_data.check_data(config(root, **options))


def text(root: Path, label: int) -> Path:
    return root / "wiki" / f"desc_{label}.txt"


def image(root: Path, name: str = "violin/train_1.jpg") -> Path:
    return root / "images" / name


def set_row(root: Path, row: str, number: int = 5, split: str = "train") -> None:
    file = root / f"world_{split}.txt"
    lines = file.read_text().splitlines()
    lines[number - 1] = row
    file.write_text("\n".join(lines) + "\n")


def add_row(root: Path, row: str, split: str = "train") -> None:
    with (root / f"world_{split}.txt").open("a") as file:
        file.write(f"{row}\n")


def without(root: Path, split: str, word: str) -> None:
    file = root / f"world_{split}.txt"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if word not in line))


def copy_image(root: Path, source: str, name: str, label: int, split: str) -> None:
    shutil.copyfile(image(root, source), image(root, name))
    add_row(root, f"images/{name} {label}", split)


def edit(path: Path, old: str, new: str) -> None:
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))


def renumber(root: Path, order: Iterable[int]) -> None:
    """Writes the text of class order[N] as text N."""
    texts = [text(root, label).read_text() for label in range(len(NAMES))]
    for path in (root / "wiki").iterdir():
        path.unlink()
    for number, label in enumerate(order):
        if label >= 0:
            text(root, number).write_text(texts[label])
