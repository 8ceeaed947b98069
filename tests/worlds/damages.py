"""Each damage that a check of a data set must find: the finding, and its words."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from worlds import checked_world as world
from worlds.checked_world import COUNTS, NAMES


class Damage(NamedTuple):
    """A fault made on purpose.

    Attributes:
      code: of the finding that it must give, and no other.
      make: damages a copy.
      words: names in the finding.
      severity: 'error' or 'warning'.
      options: of the section `data`.
      also: codes of findings that the same damage may give.
    """

    code: str
    make: Callable[[Path], object]
    words: tuple[str, ...]
    severity: str = "error"
    options: dict[str, str] = {}
    also: frozenset[str] = frozenset()


def error(code, make, *words, also=(), **options):
    return Damage(code, make, words, "error", options, frozenset(also))


def warning(*arguments, **options):
    return error(*arguments, **options)._replace(severity="warning")


def do(change, *arguments, **options):
    return lambda root: change(root, *arguments, **options)


def edit(file, old, new):
    return lambda root: world.edit(root / file, old, new)


def remove(file):
    return lambda root: (root / file).unlink()


def rename(old, new):
    return lambda root: (root / old).rename(root / new)


def write(content, file="wiki/desc_2.txt"):
    data = content.encode() if isinstance(content, str) else content
    return lambda root: (root / file).write_bytes(data)


set_row, add_row = partial(do, world.set_row), partial(do, world.add_row)
without, copy_image = partial(do, world.without), partial(do, world.copy_image)
picture, renumber = partial(do, world.picture), partial(do, world.renumber)

TRAIN, VAL, TEST = (f"world_{split}.txt" for split in COUNTS)
ACORN, VIOLIN = "images/acorn/train_1.jpg", "images/violin/train_1.jpg"
CLASS, ROW8 = "[class 2 'violin']", f"{TRAIN}:8"
IMAGE = ("violin/train_1.jpg", ROW8, CLASS)
PAGE = "<!DOCTYPE html>\n<html><body><p>The violin.</p></body></html>"
INAT = {"source": "inat18", "layout": "inat18"}
PLACES = {"name": "Places_LT"}
PLACES |= {f"{split}_list": f"world_{split}.txt" for split in COUNTS}
TWICE = {"image_id": 104, "category_id": 7}
FOLDERS = {"source": "image_folder"}
BY_NAME = world.label_file(sorted(NAMES))
LISTS = (
    error("split-unreadable", rename(VAL, "world_valid.txt"), VAL, "world_valid.txt"),
    error("list-row", write("", TEST), f"{TEST}:1"),
    error("split-unreadable", write(b"a.jpg 0\n\xff\xff 1\n", TEST), f"{TEST}:2"),
    error("list-row", set_row(ACORN), f"{TRAIN}:5", ACORN),
    error("label-range", set_row(f"{ACORN} 12"), f"{TRAIN}:5", "[class 12]"),
    error("image-missing", remove(VIOLIN), *IMAGE),
    error("path-outside", set_row("../../etc/passwd 1"), f"{TRAIN}:5", "passwd"),
    error("split-overlap", add_row(f"{VIOLIN} 2", "test"), ROW8, CLASS, f"{TEST}:25"),
    error("split-overlap", add_row(f"/{VIOLIN} 2", "val"), ROW8, CLASS, f"{VAL}:13"),
    warning(
        "val-test-overlap",
        add_row("images/violin/val_0.jpg 2", "test"),
        *(f"{VAL}:3", CLASS, f"{TEST}:25"),
    ),
    warning("duplicate-row", add_row(f"{VIOLIN} 2"), ROW8, CLASS, f"{TRAIN}:37"),
    error(
        "two-labels",
        add_row(f"{VIOLIN} 3"),
        *(ROW8, CLASS, f"{TRAIN}:37", "[class 3 'castle']"),
        also=["folder-of-other-class"],
    ),
    error("class-without-train", without("train", "violin"), CLASS),
    warning("class-without-val", without("val", "violin"), CLASS),
    warning("class-without-test", without("test", "violin"), CLASS),
    error("class-names", remove("labels.txt"), "labels.txt"),
    error("class-names", edit("labels.txt", "anvil 11", "anvil 12"), "labels.txt:12"),
    error(
        "class-names",
        edit("labels.txt", "zebra", "violin"),
        *("labels.txt:8", "'violin'", "labels.txt:3"),
    ),
    error("published-counts", lambda root: None, "62,500", "131", **PLACES),
    error(
        "folder-of-other-class",
        write(BY_NAME, "labels.txt"),
        *("tench/train_0.jpg", "[class 0 'acorn']", "class 8 'tench'"),
        also=["text-of-other-class"],
    ),
    error(
        "category-folder",
        do(world.edit_annotations, world.shift_categories),
        *("train2018.json image id 100", "[class 1 'Acorn']", "Aves/0/"),
        **INAT,
    ),
    error(
        "two-labels",
        do(world.edit_annotations, lambda rows: rows.insert(0, TWICE)),
        *("train2018.json image id 104", "categories 7 and 1"),
        **INAT,
    ),
    error("split-unreadable", write('{"im', "val2018.json"), "val2018.json", **INAT),
    error(
        "folder-unknown",
        rename("train/violin", "train/violins"),
        *("train/violins", "'violin'"),
        also=["class-without-train"],
        **FOLDERS,
    ),
    error(
        "split-unreadable", lambda root: shutil.rmtree(root / "val"), "val", **FOLDERS
    ),
)
IMAGES = (
    error("image-unreadable", do(world.cut_image), *IMAGE),
    error("image-unreadable", write(PAGE, VIOLIN), *IMAGE),
    error(
        "leak",
        copy_image("violin/train_1.jpg", "violin/other.jpg", 2, "test"),
        *("violin/train_1.jpg", CLASS, "violin/other.jpg", f"{TEST}:25"),
    ),
    error(
        "contradictory-content",
        copy_image("violin/train_1.jpg", "castle/other.jpg", 3, "train"),
        *("violin/train_1.jpg", CLASS, "castle/other.jpg", "[class 3 'castle']"),
    ),
    warning(
        "duplicate-content",
        copy_image("violin/train_1.jpg", "violin/other.jpg", 2, "train"),
        *("violin/train_1.jpg", CLASS, "violin/other.jpg"),
    ),
    warning(
        "val-test-content",
        copy_image("violin/val_0.jpg", "violin/other.jpg", 2, "test"),
        *("violin/val_0.jpg", CLASS, "violin/other.jpg"),
    ),
    warning("image-tiny", picture(7, 20), *IMAGE, "7 x 20"),
    warning("image-narrow", picture(330, 10), *IMAGE, "330 x 10"),
    warning("image-one-colour", picture(20, 16, colour=True), *IMAGE),
)
LONG = world.PROSE.format("violin")
TEXT = ("wiki/desc_2.txt", CLASS)
TAGS = "".join(f"<p class='x'>A violin has {n}.</p>" for n in range(9))
API_ERROR = '{"error": {"code": "ratelimited", "info": "Too many. Wait."}}'
MARKUP = f"{{{{Infobox}}}} [[Violin]] [[Bow]] [[String]]. {LONG}"
MOJIBAKE = f"{LONG} Café, “naïve”.".encode().decode("latin-1")
TEXTS = (
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
    warning(
        "text-shared",
        renumber([0, 1, 2, 3, 4, 5, 6, 2, *range(8, 12)]),
        *(*TEXT, "class 7"),
        also=["text-of-other-class"],
    ),
    warning("text-left-over", write(LONG, "wiki/desc_12.txt"), "desc_12.txt"),
    error("text-order", renumber(sorted(range(12), key=str)), *TEXT, "'sea lion'"),
    error(
        "text-order",
        renumber([-1, *range(12)]),
        *(*TEXT, "class 1 'acorn'"),
        also=["text-missing", "text-left-over"],
    ),
    error(
        "text-order",
        renumber([NAMES.index(name) for name in sorted(NAMES)]),
        *TEXT,
        "'banjo'",
    ),
    warning(
        "text-of-other-class",
        renumber([0, 1, 7, 3, 4, 5, 6, 2, 8, 9, 10, 11]),
        *(*TEXT, "class 7 'zebra'", "desc_7.txt"),
    ),
)
