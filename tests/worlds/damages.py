"""Each damage that a check of a data set must find: the finding, and its words."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from worlds import checked_world as world
from worlds.checked_world import NAMES
from worlds.sound_images import RGB, encoded


class Damage(NamedTuple):
    """A fault made on purpose, and the one finding that it must give."""

    code: str
    make: Callable[[Path], object]
    words: tuple[str, ...]
    severity: str = "error"
    options: dict[str, str] = {}  # of the section `data`


def error(code, make, *words, **options):
    return Damage(code, make, words, "error", options)


def warning(code, make, *words, **options):
    return Damage(code, make, words, "warning", options)


def do(change, *arguments):
    return lambda root: change(root, *arguments)


def edit(file, old, new):
    return lambda root: world.edit(root / file, old, new)


def remove(file):
    return lambda root: (root / file).unlink()


def rename(old, new):
    return lambda root: (root / old).rename(root / new)


def write(content, file="wiki/desc_2.txt"):
    data = content.encode() if isinstance(content, str) else content
    return lambda root: (root / file).write_bytes(data)


def copy(source, name="violin/other.jpg", label=2, split="test"):
    return do(world.copy_image, f"violin/{source}.jpg", name, label, split)


def picture(image):
    return write(encoded(image, "JPEG"), VIOLIN)


set_row, add_row = partial(do, world.set_row), partial(do, world.add_row)
without, renumber = partial(do, world.without), partial(do, world.renumber)
TRAIN, VAL, TEST = "world_train.txt", "world_val.txt", "world_test.txt"
ACORN, VIOLIN = "images/acorn/train_1.jpg", "images/violin/train_1.jpg"
CLASS, ROW8 = "[class 2 'violin']", f"{TRAIN}:8"
IMAGE = ("violin/train_1.jpg", ROW8, CLASS)
PAIR = ("violin/train_1.jpg", CLASS, "violin/other.jpg")
CASTLE, IN_CASTLE = "[class 3 'castle']", ("castle/other.jpg", 3, "train")
PAGE = "<!DOCTYPE html>\n<html><body><p>The violin.</p></body></html>"
INAT = {"source": "inat18", "layout": "inat18"}
PLACES = {"name": "Places_LT", "train_list": TRAIN, "val_list": VAL, "test_list": TEST}
FOLDERS = {"source": "image_folder"}
BY_NAME = world.label_file(sorted(NAMES))
ANNOTATIONS, FIRST = "train2018.json", '{"image_id": 100, "category_id": 0}'
MOVED, TWICE = FIRST.replace("0}", "1}"), '{"image_id": 104, "category_id": 7}, '
OTHER_CLASS = ("tench/train_0.jpg", "[class 0 'acorn']", "class 8 'tench'")
OTHER_FOLDER = (f"{ANNOTATIONS} image id 100", "[class 1 'Acorn']", "Aves/0/")
TWO_LABELS = (f"{ANNOTATIONS} image id 104", "categories 7 and 1")
LONG = world.PROSE.format("violin")
TEXT = ("wiki/desc_2.txt", CLASS)
TAGS = "".join(f"<p class='x'>A violin has {n}.</p>" for n in range(9))
API_ERROR = '{"error": {"code": "ratelimited", "info": "Too many. Wait."}}'
MARKUP = f"{{{{Infobox}}}} [[Violin]] [[Bow]] [[String]]. {LONG}"
MOJIBAKE = f"{LONG} Café, “naïve”.".encode().decode("latin-1")
SHARED = [0, 1, 2, 3, 4, 5, 6, 2, *range(8, 12)]
SWAPPED = [0, 1, 7, 3, 4, 5, 6, 2, *range(8, 12)]
DAMAGES = (
    error("split-unreadable", rename(VAL, "world_valid.txt"), VAL, "world_valid.txt"),
    error("list-row", write("", TEST), f"{TEST}:1"),
    error("split-unreadable", write(b"a.jpg 0\n\xff\xff 1\n", TEST), f"{TEST}:2"),
    error("list-row", set_row(ACORN), f"{TRAIN}:5", ACORN),
    error("label-range", set_row(f"{ACORN} 12"), f"{TRAIN}:5", "[class 12]"),
    error("image-missing", remove(VIOLIN), *IMAGE),
    error("path-outside", set_row("../../etc/passwd 1"), f"{TRAIN}:5", "passwd"),
    error("split-overlap", add_row(f"{VIOLIN} 2", "test"), ROW8, CLASS, f"{TEST}:25"),
    error("split-overlap", add_row(f"/{VIOLIN} 2", "val"), ROW8, CLASS, f"{VAL}:13"),
    warning("val-test-overlap", add_row("images/violin/val_0.jpg 2", "test"), CLASS),
    warning("duplicate-row", add_row(f"{VIOLIN} 2"), ROW8, CLASS, f"{TRAIN}:37"),
    error("two-labels", add_row(f"{VIOLIN} 3"), ROW8, CLASS, f"{TRAIN}:37", CASTLE),
    error("class-without-train", without("train", "violin"), CLASS),
    warning("class-without-val", without("val", "violin"), CLASS),
    warning("class-without-test", without("test", "violin"), CLASS),
    error("class-names", remove("labels.txt"), "labels.txt"),
    error("class-names", edit("labels.txt", "anvil 11", "anvil 12"), "labels.txt:12"),
    error("class-names", edit("labels.txt", "zebra", "violin"), "labels.txt:8"),
    error("published-counts", lambda root: None, "62,500", "131", **PLACES),
    error("folder-of-other-class", write(BY_NAME, "labels.txt"), *OTHER_CLASS),
    error("category-folder", edit(ANNOTATIONS, FIRST, MOVED), *OTHER_FOLDER, **INAT),
    error("two-labels", edit(ANNOTATIONS, FIRST, TWICE + FIRST), *TWO_LABELS, **INAT),
    error("split-unreadable", write('{"im', "val2018.json"), "val2018.json", **INAT),
    error("folder-unknown", rename("train/violin", "train/x"), "train/x", **FOLDERS),
    error("split-unreadable", lambda root: shutil.rmtree(root / "val"), **FOLDERS),
    error("image-unreadable", write(PAGE, VIOLIN), *IMAGE),
    error("leak", copy("train_1"), *PAIR, f"{TEST}:25"),
    error("contradictory-content", copy("train_1", *IN_CASTLE), CASTLE),
    warning("duplicate-content", copy("train_1", split="train"), *PAIR),
    warning("val-test-content", copy("val_0"), "violin/val_0.jpg", "violin/other.jpg"),
    warning("image-tiny", picture(RGB.resize((7, 20))), *IMAGE, "7 x 20"),
    warning("image-narrow", picture(RGB.resize((330, 10))), *IMAGE, "330 x 10"),
    warning("image-one-colour", picture(Image.new("RGB", (20, 16), "red")), *IMAGE),
    error("text-missing", remove("wiki/desc_2.txt"), *TEXT),
    warning("text-empty", write(" \n"), *TEXT),
    error("text-empty", write(""), *TEXT, prompts="none"),
    warning("text-short", write("A violin."), *TEXT),
    error("text-unreadable", write(b"violin\n\xff\xff"), *TEXT),
    warning("text-encoding", write(f"{LONG} 小提琴。".encode("gbk")), *TEXT),
    warning("text-mojibake", write(MOJIBAKE), *TEXT, "Ã©"),
    warning("text-mojibake", write(f"{LONG} Caf\ufffd."), *TEXT),
    error("text-not-prose", write(PAGE), *TEXT, "HTML"),
    error("text-not-prose", write(TAGS), *TEXT, "18 tags"),
    error("text-not-prose", write(API_ERROR), *TEXT, "JSON"),
    warning("text-markup", write(MARKUP), *TEXT),
    warning("text-open-heading", write(f"{LONG}\n== Bow: long."), *TEXT, "Bow"),
    warning("text-disambiguation", write(f"Violin may refer to:\n\n{LONG}"), *TEXT),
    warning("text-no-sentence", write(f"== References ==\n{LONG}"), *TEXT),
    warning("text-shared", renumber(SHARED), *TEXT, "class 7"),
    warning("text-left-over", write(LONG, "wiki/desc_12.txt"), "desc_12.txt"),
    error("text-order", renumber(sorted(range(12), key=str)), *TEXT, "'sea lion'"),
    error("text-order", renumber([-1, *range(12)]), *TEXT, "class 1 'acorn'"),
    error("text-order", renumber(map(NAMES.index, sorted(NAMES))), *TEXT, "'banjo'"),
    warning("text-of-other-class", renumber(SWAPPED), *TEXT, "class 7 'zebra'"),
)
# Other findings that a damage may give, by the code of the one that it must.
ALSO = {
    "two-labels": {"folder-of-other-class"},
    "folder-of-other-class": {"text-of-other-class"},
    "folder-unknown": {"class-without-train"},
    "text-shared": {"text-of-other-class"},
    "text-order": {"text-missing", "text-left-over"},
}
