"""Each damage that a check has to find, and by which name."""

import shutil
from pathlib import Path

from worlds import checked_world as world
from worlds.checked_world import COUNTS, Damage

VIOLIN = "[class 2 'violin']"
PAGE = "<!DOCTYPE html>\n<html><body><p>The violin.</p></body></html>"
INAT = {"source": "inat18", "layout": "inat18"}
PLACES = {
    "name": "Places_LT",
    **{f"{split}_list": f"world_{split}.txt" for split in COUNTS},
}
LISTS = (
    Damage(
        "list missing",
        lambda root: (root / "world_val.txt").rename(root / "world_valid.txt"),
        "split-unreadable",
        ("world_val.txt", "did you mean 'world_valid.txt'"),
    ),
    Damage(
        "list empty",
        lambda root: (root / "world_test.txt").write_text(""),
        "list-row",
        ("world_test.txt:1",),
    ),
    Damage(
        "list of bytes",
        lambda root: (root / "world_test.txt").write_bytes(b"a.jpg 0\n\xff\xff 1\n"),
        "split-unreadable",
        ("world_test.txt:2",),
    ),
    Damage(
        "malformed row",
        lambda root: world.set_row(root, "images/acorn/train_1.jpg"),
        "list-row",
        ("world_train.txt:5", "images/acorn/train_1.jpg"),
    ),
    Damage(
        "label out of range",
        lambda root: world.set_row(root, "images/acorn/train_1.jpg 12"),
        "label-range",
        ("world_train.txt:5", "[class 12]"),
    ),
    Damage(
        "negative label",
        lambda root: world.set_row(root, "images/acorn/train_1.jpg -1"),
        "label-range",
        ("world_train.txt:5", "[class -1]"),
    ),
    Damage(
        "missing image",
        lambda root: world.image(root).unlink(),
        "image-missing",
        ("world_train.txt:8", VIOLIN, "violin/train_1.jpg"),
    ),
    Damage(
        "path that leaves the root",
        lambda root: world.set_row(root, "../../../etc/passwd 1"),
        "path-outside",
        ("world_train.txt:5", "[class 1 'acorn']", "passwd"),
    ),
    Damage(
        "path in train and test",
        lambda root: world.add_row(root, "images/violin/train_1.jpg 2", "test"),
        "split-overlap",
        ("world_train.txt:8", VIOLIN, "world_test.txt:25"),
    ),
    Damage(
        "path in train and val",
        lambda root: world.add_row(root, "/images/violin/train_1.jpg 2", "val"),
        "split-overlap",
        ("world_train.txt:8", VIOLIN, "world_val.txt:13"),
    ),
    Damage(
        "path in val and test",
        lambda root: world.add_row(root, "images/violin/val_0.jpg 2", "test"),
        "val-test-overlap",
        ("world_val.txt:3", VIOLIN, "world_test.txt:25"),
        "warning",
    ),
    Damage(
        "duplicate row",
        lambda root: world.add_row(root, "images/violin/train_1.jpg 2"),
        "duplicate-row",
        ("world_train.txt:8", VIOLIN, "world_train.txt:37"),
        "warning",
    ),
    Damage(
        "image with two labels",
        lambda root: world.add_row(root, "images/violin/train_1.jpg 3"),
        "two-labels",
        ("world_train.txt:8", VIOLIN, "world_train.txt:37", "[class 3 'castle']"),
        also=frozenset({"folder-of-other-class"}),
    ),
    Damage(
        "class without training images",
        lambda root: world.without(root, "train", "violin"),
        "class-without-train",
        (VIOLIN,),
    ),
    Damage(
        "class without validation images",
        lambda root: world.without(root, "val", "violin"),
        "class-without-val",
        (VIOLIN,),
        "warning",
    ),
    Damage(
        "class without test images",
        lambda root: world.without(root, "test", "violin"),
        "class-without-test",
        (VIOLIN,),
        "warning",
    ),
    Damage(
        "label file missing",
        lambda root: (root / "labels.txt").unlink(),
        "class-names",
        ("labels.txt does not exist",),
    ),
    Damage(
        "label gap",
        lambda root: world.edit(root / "labels.txt", "anvil 11", "anvil 12"),
        "class-names",
        ("labels.txt:12", "'anvil'", "no class has the label 11"),
    ),
    Damage(
        "class name twice",
        lambda root: world.edit(root / "labels.txt", "zebra", "violin"),
        "class-names",
        ("labels.txt:8", "'violin'", "labels.txt:3"),
    ),
    Damage(
        "published numbers",
        lambda root: None,
        "published-counts",
        ("36 train images here, 62,500 published", "131 published"),
        options=PLACES,
    ),
    Damage(
        "lists numbered otherwise than the label file",
        lambda root: (root / "labels.txt").write_text(
            "".join(f"{name} {n}\n" for n, name in enumerate(sorted(world.NAMES)))
        ),
        "folder-of-other-class",
        ("tench/train_0.jpg", "[class 0 'acorn']", "class 8 'tench'"),
        also=frozenset({"text-of-other-class"}),
    ),
    Damage(
        "categories shifted against folders",
        world.shift_categories,
        "category-folder",
        ("train2018.json image id 100", "[class 1 'Acorn']", "Aves/0/"),
        options=INAT,
    ),
    Damage(
        "two annotations",
        world.annotate_twice,
        "two-labels",
        ("train2018.json image id 104", "categories 7 and 1"),
        options=INAT,
    ),
    Damage(
        "JSON cut off",
        lambda root: (root / "val2018.json").write_text('{"images": ['),
        "split-unreadable",
        ("val2018.json", "download it again"),
        options=INAT,
    ),
    Damage(
        "folder of no class",
        lambda root: (root / "train/violin").rename(root / "train/violins"),
        "folder-unknown",
        ("train/violins", "did you mean 'violin'"),
        options={"source": "image_folder"},
        also=frozenset({"class-without-train"}),
    ),
    Damage(
        "no folder",
        lambda root: shutil.rmtree(root / "val"),
        "split-unreadable",
        ("no directory", "val"),
        options={"source": "image_folder"},
    ),
)
IMAGES = (
    Damage(
        "truncated JPEG",
        lambda root: world.image(root).write_bytes(
            world.image(root).read_bytes()[:-200]
        ),
        "image-unreadable",
        ("violin/train_1.jpg", "world_train.txt:8", VIOLIN, "truncated"),
    ),
    Damage(
        "empty file",
        lambda root: world.image(root).write_bytes(b""),
        "image-unreadable",
        ("violin/train_1.jpg", "world_train.txt:8", VIOLIN),
    ),
    Damage(
        "HTML named jpg",
        lambda root: world.image(root).write_text(PAGE),
        "image-unreadable",
        ("violin/train_1.jpg", "world_train.txt:8", VIOLIN, "not an image"),
    ),
    Damage(
        "the same picture in train and test",
        lambda root: world.copy_image(
            root, "violin/train_1.jpg", "violin/other.jpg", 2, "test"
        ),
        "leak",
        ("violin/train_1.jpg", VIOLIN, "violin/other.jpg", "world_test.txt:25"),
    ),
    Damage(
        "the same picture with two labels",
        lambda root: world.copy_image(
            root, "violin/train_1.jpg", "castle/other.jpg", 3, "train"
        ),
        "contradictory-content",
        ("violin/train_1.jpg", VIOLIN, "castle/other.jpg", "[class 3 'castle']"),
    ),
    Damage(
        "the same picture twice",
        lambda root: world.copy_image(
            root, "violin/train_1.jpg", "violin/other.jpg", 2, "train"
        ),
        "duplicate-content",
        ("violin/train_1.jpg", VIOLIN, "violin/other.jpg"),
        "warning",
    ),
    Damage(
        "the same picture in val and test",
        lambda root: world.copy_image(
            root, "violin/val_0.jpg", "violin/other.jpg", 2, "test"
        ),
        "val-test-content",
        ("violin/val_0.jpg", VIOLIN, "violin/other.jpg"),
        "warning",
    ),
    Damage(
        "tiny picture",
        lambda root: world.picture(root, 7, 20),
        "image-tiny",
        ("violin/train_1.jpg", "world_train.txt:8", VIOLIN, "7 x 20"),
        "warning",
    ),
    Damage(
        "narrow picture",
        lambda root: world.picture(root, 330, 10),
        "image-narrow",
        ("violin/train_1.jpg", VIOLIN, "330 x 10"),
        "warning",
    ),
    Damage(
        "picture of one colour",
        lambda root: world.picture(root, 20, 16, colour=True),
        "image-one-colour",
        ("violin/train_1.jpg", VIOLIN),
        "warning",
    ),
)


def write_text(content: str | bytes):
    def make(root: Path) -> None:
        data = content.encode() if isinstance(content, str) else content
        world.text(root, 2).write_bytes(data)

    return make


LONG = world.PROSE.format("violin")
TEXT = ("wiki/desc_2.txt", VIOLIN)
TEXTS = (
    Damage(
        "missing text",
        lambda root: world.text(root, 2).unlink(),
        "text-missing",
        TEXT,
    ),
    Damage("empty text", write_text(" \n"), "text-empty", TEXT, "warning"),
    Damage(
        "empty text without prompts",
        write_text(""),
        "text-empty",
        TEXT,
        options={"prompts": "none"},
    ),
    Damage("short text", write_text("A violin."), "text-short", TEXT, "warning"),
    Damage("bytes", write_text(b"violin\n\xff\xff"), "text-unreadable", TEXT),
    Damage(
        "GBK among UTF-8",
        write_text(f"{LONG} 小提琴。".encode("gbk")),
        "text-encoding",
        TEXT,
        "warning",
    ),
    Damage(
        "UTF-8 read as Latin-1",
        write_text(f"{LONG} Café, “naïve”.".encode().decode("latin-1")),
        "text-mojibake",
        (*TEXT, "Ã©"),
        "warning",
    ),
    Damage(
        "replacement character",
        write_text(f"{LONG} Caf\ufffd."),
        "text-mojibake",
        TEXT,
        "warning",
    ),
    Damage("HTML", write_text(PAGE), "text-not-prose", (*TEXT, "HTML")),
    Damage(
        "parts of HTML",
        write_text("".join(f"<p class='x'>A violin has {n}.</p>" for n in range(9))),
        "text-not-prose",
        (*TEXT, "18 tags"),
    ),
    Damage(
        "an error of an API",
        write_text('{"error": {"code": "ratelimited", "info": "Too many. Wait."}}'),
        "text-not-prose",
        (*TEXT, "JSON"),
    ),
    Damage(
        "markup of a wiki",
        write_text(f"{{{{Infobox}}}} [[Violin]] [[Bow]] [[String]]. {LONG}"),
        "text-markup",
        TEXT,
        "warning",
    ),
    Damage(
        "an open heading",
        write_text(f"{LONG}\n== Bow: it is long. Of wood."),
        "text-open-heading",
        (*TEXT, "Bow"),
        "warning",
    ),
    Damage(
        "disambiguation page",
        write_text(f"Violin may refer to:\n\n{LONG}"),
        "text-disambiguation",
        (*TEXT, "may refer to"),
        "warning",
    ),
    Damage(
        "references alone",
        write_text(f"== References ==\n{LONG}"),
        "text-no-sentence",
        TEXT,
        "warning",
    ),
    Damage(
        "the same text for two classes",
        lambda root: world.repeat_text(root, 7, 2),
        "text-shared",
        (*TEXT, "class 7"),
        "warning",
        also=frozenset({"text-of-other-class"}),
    ),
    Damage(
        "text of no class",
        lambda root: world.text(root, 12).write_text(LONG),
        "text-left-over",
        ("desc_12.txt",),
        "warning",
    ),
    Damage(
        "texts in the order of strings",
        lambda root: world.renumber(root, sorted(range(12), key=str)),
        "text-order",
        (*TEXT, "class 10 'sea lion'"),
    ),
    Damage(
        "texts numbered from 1",
        lambda root: world.renumber(root, [-1, *range(12)]),
        "text-order",
        (*TEXT, "class 1 'acorn'"),
        also=frozenset({"text-missing", "text-left-over"}),
    ),
    Damage(
        "texts in the order of names",
        lambda root: world.renumber(
            root, sorted(range(12), key=lambda label: world.NAMES[label])
        ),
        "text-order",
        (*TEXT, "class 5 'banjo'"),
    ),
    Damage(
        "two texts exchanged",
        lambda root: world.renumber(root, [0, 1, 7, 3, 4, 5, 6, 2, 8, 9, 10, 11]),
        "text-of-other-class",
        (*TEXT, "class 7 'zebra'", "desc_7.txt"),
        "warning",
    ),
)
