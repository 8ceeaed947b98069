"""Prepared data sets: their content, and errors that name each fault."""

import concurrent.futures
import shutil

import cloudpickle
import numpy as np
import pytest
import tensorflow_datasets as tfds

from vl_ltr_jax.data.sources import dataset
from vl_ltr_jax.data.sources.faults import ListError
from vl_ltr_jax.data.sources.tfds_records import read_prepared
from worlds.checked_world import edit
from worlds.prepared_world import NO_TEXTS, WNIDS, imagenet, prepare, prepared, read

__all__ = ["imagenet", "prepared"]  # fixtures


def test_a_set_of_the_catalogue(imagenet):
    """Its records are shuffled: a label of another record is found by the red."""
    data = read(imagenet)
    assert data.name == "imagenet_lt"
    assert data.class_names == ("tench", "gold fish", "white shark")
    assert data.class_texts == ("", "", "")
    for split, name, count in ((data.train, "train", 30), (data.val, "validation", 6)):
        reds = [split.read(i).getpixel((0, 0))[0] for i in range(len(split))]
        assert sorted(reds) == list(range(count))
        assert reds != sorted(reds)
        assert split.labels.tolist() == [red % 3 for red in reds]
        for index, red in enumerate(reds):
            where = f"imagenet_lt/1.0.0 {name} record {index} ({name}_{red}.JPEG)"
            assert split.describe(index) == where
    assert len(data.test) == 9
    assert data.train.fetch(0).startswith(b"\x89PNG")
    chosen = data.train.select(np.array([5, 2]))
    assert chosen.fetch(1) == data.train.fetch(2)
    assert chosen.describe(1) == data.train.describe(2)


def test_texts_lie_under_the_data_dir_or_a_root_of_their_own(imagenet):
    data_dir, texts = imagenet
    for root in (data_dir, texts.root):
        (root / "wiki").mkdir()
        for label in range(3):
            (root / f"wiki/desc_{label}.txt").write_text(f"{root.name} {label}.")
    apart = read((data_dir, dataset.Texts(texts.root)))
    assert apart.class_texts == ("names 0.", "names 1.", "names 2.")
    shutil.copy(texts.root / "labels.txt", data_dir)
    within = read((data_dir, dataset.Texts()))
    assert within.class_texts[2] == f"{data_dir.name} 2."


def test_splits_go_to_other_processes_and_threads(imagenet):
    train = read(imagenet).train
    expected = [train.fetch(index) for index in range(30)]
    for split in (train, train.select(np.arange(30))):
        sent = cloudpickle.loads(cloudpickle.dumps(split))
        assert sent.labels.tolist() == train.labels.tolist()
        assert sent.describe(7) == train.describe(7)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            assert list(pool.map(sent.fetch, [*range(30)] * 4)) == expected * 4


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("dataset_info.json", '"array_record"', '"tfrecord"', "tfrecord"),
        ("dataset_info.json", "{", "", "imagenet_lt/1.0.0"),
        ("features.json", "{", "", "imagenet_lt/1.0.0"),
        ("features.json", '"label"', '"target"', "label"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(imagenet, file, old, new, words):
    edit(imagenet[0] / "imagenet_lt/1.0.0" / file, old, new)
    with pytest.raises(ListError, match=words):
        read(imagenet)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("place_lt", "did you mean 'places_lt'"),
        ("places_lt", "tfds_builders places_lt --root=ROOT"),
        ("mnist/x", "data.name"),
        ("imagenet_lt:1.0.1", "1.0.0"),
        ("../imagenet_lt", "data.name"),
        ("cifar100_lt/5", "100, 50, 10"),
        ("cifar100_lt", "tfds_builders cifar100 --data_dir="),
    ],
)
def test_wrong_names(imagenet, name, hint):
    with pytest.raises(ListError, match=hint):
        read_prepared(imagenet[0], name, texts=NO_TEXTS)


def test_versions_and_configurations(imagenet):
    """Breaks if versions are sorted as text: 1.9.0 after 1.10.0."""
    data_dir, texts = imagenet
    base = data_dir / "imagenet_lt"
    for version in ("1.9.0", "1.10.0", "1.10.0.old"):
        info = (base / "1.0.0/dataset_info.json").read_text()
        shutil.copytree(base / "1.0.0", base / version)
        (base / version / "dataset_info.json").write_text(
            info.replace('"1.0.0"', f'"{version}"')
        )
    for suffix, version in (("", "1.10.0"), (":1.9.0", "1.9.0"), (":1.0.0", "1.0.0")):
        name = f"imagenet_lt{suffix}"
        data = read_prepared(data_dir, name, "imagenet_lt", texts=texts)
        assert data.train.describe(0).startswith(f"imagenet_lt/{version} train")
    (data_dir / "sets").mkdir()
    base.rename(data_dir / "sets/a")
    assert read_prepared(data_dir, "sets", "imagenet_lt", texts=texts).name == "sets"
    shutil.copytree(data_dir / "sets/a", data_dir / "sets/b")
    with pytest.raises(ListError, match="sets/a or sets/b"):
        read_prepared(data_dir, "sets", "imagenet_lt", texts=texts)
    read_prepared(data_dir, "sets/b:1.9.0", "imagenet_lt", texts=texts)


@pytest.mark.parametrize("names", [WNIDS, ["0", "1", "2"]])
def test_classes_without_names_need_a_label_file(tmp_path, names):
    prepare(tmp_path, name="own", names=names)
    with pytest.raises(ListError, match="labels.txt"):
        read_prepared(tmp_path, "own", texts=NO_TEXTS)


@pytest.mark.parametrize(
    ("layout", "rows", "second"),
    [
        ("plain", "", "Dog"),
        ("plain", "sea lion 0\nfoe 1\ndog 2", None),
        ("plain", "sea lion 1\ndog 0\n.x 2", None),
        ("plain", "sea_lion 0\ndog 1", None),
        ("plain", "sea_lion 0\nhound 1\nx 2", "hound"),
        ("places_lt", "/sea_lion 0\n/d/dog 1\n/x 2", " d dog"),
    ],
)
def test_label_file_of_another_data_set(tmp_path, layout, rows, second):
    """Spelling may differ, but a known name has its place."""
    prepare(tmp_path, name="own", names=["sea_lion", "Dog", "_x"])
    if rows:
        (tmp_path / "labels.txt").write_text(rows)
    if second is None:
        with pytest.raises(ListError, match="labels.txt"):
            read_prepared(tmp_path, "own", layout, texts=NO_TEXTS)
    else:
        data = read_prepared(tmp_path, "own", layout, texts=NO_TEXTS)
        assert "sea lion" in data.class_names[0] and data.class_names[1] == second


def test_wnids_have_to_be_those_of_the_label_file(imagenet):
    """One class exchanged for another leaves the others where they are."""
    file = imagenet[1].root / "labels.txt"
    file.write_text(file.read_text().replace(WNIDS[1], "n01443538"))
    with pytest.raises(ListError, match="n01443537.*n01443538"):
        read(imagenet)


@pytest.mark.parametrize(
    ("attributes", "place"),
    [
        ({"unlabelled": ("test",)}, ""),
        ({"unlabelled": ("train",)}, "train record 0"),
        ({"unlabelled": ("validation",)}, "validation record 0"),
        ({"counts": {"train": 3}}, "own"),
        ({"counts": {"test": 3, "val": 3}}, "own"),
        ({"counts": {"train": 3, "test": 3}, "unlabelled": ("test",)}, "own"),
    ],
)
def test_splits_without_labels(tmp_path, attributes, place):
    prepare(tmp_path, name="own", names=list("abc"), **attributes)
    if not place:
        assert read_prepared(tmp_path, "own", texts=NO_TEXTS).test_is_val
        return
    with pytest.raises(ListError, match=place):
        read_prepared(tmp_path, "own", texts=NO_TEXTS)


@pytest.mark.parametrize("channels", [1, 3])
def test_bare_pixels(tmp_path, channels):
    pixels = np.arange(4 * 5 * channels, dtype=np.uint8).reshape(4, 5, channels)

    def info(self):
        features = {
            "image": tfds.features.Tensor(shape=pixels.shape, dtype=np.uint8),
            "label": tfds.features.ClassLabel(names=["a", "b"]),
        }
        features = tfds.features.FeaturesDict(features)
        return tfds.core.DatasetInfo(builder=self, features=features)

    def examples(self, split):
        return ((n, {"image": pixels, "label": n % 2}) for n in range(4))

    attributes = {"name": "bare", "counts": ("train", "val")}
    prepare(tmp_path, _info=info, _generate_examples=examples, **attributes)
    train = read_prepared(tmp_path, "bare", texts=NO_TEXTS).train
    np.testing.assert_array_equal(train.read(0), np.broadcast_to(pixels, (4, 5, 3)))
    assert train.describe(2) == "bare/1.0.0 train record 2"
