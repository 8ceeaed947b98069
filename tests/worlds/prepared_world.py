"""Tiny data sets of tensorflow-datasets, prepared in a tenth of a second."""

import io
import shutil

import pytest
import tensorflow_datasets as tfds
from PIL import Image

from vl_ltr_jax.data.sources import dataset
from vl_ltr_jax.data.sources.tfds_records import read_prepared

NO_TEXTS = dataset.Texts(absent=True)
WNIDS = ["n01440764", "n01443537", "n01484850"]
COUNTS = {"train": 30, "validation": 6, "test": 9}


with tfds.core.registered.skip_registration():

    class Tiny(tfds.core.GeneratorBasedBuilder):
        """A set of the catalogue in small: the red of an image is its number."""

        name = "imagenet_lt"
        VERSION = tfds.core.Version("1.0.0")
        names, counts, size = WNIDS, COUNTS, (None, None, 3)
        unlabelled = ()

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=self.size),
                "label": tfds.features.ClassLabel(names=self.names),
                "file_name": tfds.features.Text(),
            }
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in self.counts}

        def _generate_examples(self, split):
            for number in range(self.counts[split]):
                file = io.BytesIO()
                Image.new("RGB", (32, 32), (number, 0, 0)).save(file, "PNG")
                file.seek(0)
                label = -1 if split in self.unlabelled else number % len(self.names)
                name = f"{split}_{number}.JPEG"
                yield name, {"image": file, "label": label, "file_name": name}


def variant(**attributes):
    """A builder like `Tiny`."""
    with tfds.core.registered.skip_registration():
        return type("Variant", (Tiny,), {"name": Tiny.name, **attributes})


def prepare(data_dir, **attributes):
    """Prepares a variant in two shards; returns its directory."""
    built = variant(**attributes)(data_dir=data_dir, file_format="array_record")
    config = tfds.download.DownloadConfig(num_shards=2)
    built.download_and_prepare(download_config=config)
    return built.data_path


def write_names(root):
    """Writes names of ImageNet-LT, whose rows are in no order."""
    names = zip(WNIDS, ("tench", "gold_fish", "white_shark"), strict=True)
    rows = [f"{wnid} {7 - k} {name}" for k, (wnid, name) in enumerate(names)]
    root.mkdir(exist_ok=True)
    (root / "labels.txt").write_text("\n".join(reversed(rows)) + "\n")
    return dataset.Texts(root, absent=True)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("prepared")
    prepare(data_dir)
    return data_dir


@pytest.fixture
def imagenet(prepared, tmp_path):
    """A copy that a test may damage, and the directory of its class names."""
    shutil.copytree(prepared / "imagenet_lt", tmp_path / "imagenet_lt")
    return tmp_path, write_names(tmp_path / "names")


def read(imagenet):
    data_dir, texts = imagenet
    return read_prepared(data_dir, "imagenet_lt", "imagenet_lt", texts=texts)


def shard(data_dir, split="train", number=0):
    name = f"imagenet_lt-{split}.array_record-{number:05}-of-00002"
    return data_dir / "imagenet_lt/1.0.0" / name
