"""Readers of data sets, texts and images."""

import numpy as np

from damage.reader import Reader
from vl_ltr_jax.data.images.decode import as_image, decode_image, read_content
from vl_ltr_jax.data.images.transforms import eval_transform, train_transform
from vl_ltr_jax.data.sources import dataset, inat18, lists
from vl_ltr_jax.data.text import corpus, files
from worlds import checked_world, prepared_world
from worlds.sound_images import SOUND

NO_TEXTS = dataset.Texts(absent=True)


def check_data(data, sound):
    check_names(data.class_names)
    for split in (data.train, data.val, data.test):
        assert split.labels.dtype == np.int32 and len(split)
        assert 0 <= split.labels.min() and split.labels.max() < len(data.class_names)


def check_names(names, sound=None):
    """Fails unless names of classes make one row each of a table."""
    assert names
    assert all(type(name) is str and name.strip() for name in names)
    assert len("\n".join(names).splitlines()) == len(names)


def check_texts(texts, sound):
    sentences = corpus.build_corpus(checked_world.NAMES, texts, "plain")
    assert len(sentences.sentences) == len(sentences.labels) >= len(checked_world.NAMES)
    assert set(sentences.labels) == set(range(len(checked_world.NAMES)))


def write_images(folder):
    for kind in SOUND.keys() - {"float tiff"}:  # of an unknown range: refused
        (folder / kind).write_bytes(SOUND[kind])


def open_image(folder, file):
    image = decode_image(read_content(file, str(file)), str(file))
    pixels = eval_transform("vl_ltr", 16)(image)
    cropped = train_transform("plain", 16)(image, np.random.default_rng(0))
    return as_image(image), pixels, cropped


def check_image(value, sound):
    image, *crops = value
    assert image.mode == "RGB" and min(image.size) > 0
    assert {crop.shape for crop in crops} == {(16, 16, 3)}


DATA_READERS = {
    "list": Reader(
        checked_world.write,
        lambda folder, file: lists.read_image_list(folder, "world", texts=NO_TEXTS),
        {"world_*.txt": "text", "labels.txt": "text"},
        check_data,
    ),
    "inat18": Reader(
        checked_world.write_inat,
        lambda folder, file: inat18.read_inat18(folder, texts=NO_TEXTS),
        {"*2018.json": "json", "categories.json": "json"},
        check_data,
    ),
    "prepared": Reader(
        prepared_world.prepare,
        lambda folder, file: prepared_world.read(
            (folder, prepared_world.write_names(folder / "names"))
        ),
        {"imagenet_lt/1.0.0/*.json": "json", "imagenet_lt/1.0.0/*record*": "bytes"},
        check_data,
    ),
    "texts": Reader(
        checked_world.write,
        lambda folder, file: files.read_texts(folder, len(checked_world.NAMES)),
        {"wiki/desc_3.txt": "text"},
        check_texts,
    ),
    "images": Reader(write_images, open_image, {"*": "bytes"}, check_image),
}
