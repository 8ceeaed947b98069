"""TensorBoard's view of an evaluated run."""

import collections
import re

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vl_ltr_jax.config import settings
from vl_ltr_jax.data.images.decode import ImageReadError
from vl_ltr_jax.data.sources.dataset import LongTailedData, Split
from vl_ltr_jax.evaluate.accuracy import Ranking
from vl_ltr_jax.logs.event_files import Logs, read_scalars
from vl_ltr_jax.report import dashboard

# A many-shot, a medium and two few-shot classes; names that need escapes in Markdown,
# HTML or UTF-8, or that a font lacks.
NAMES = ("house cat", "Bärtierchen *B.* | <b>&", "日本の猫 \u05d0\ud800\n🐦", "ox")
COUNTS = (120, 50, 5, 1)
WORKDIR = "runs/cats"
LABELS = np.array([0, 0, 0, 1, 1, 2, 2, 3], np.int32)
PREDICTED = np.array([0, 1, 2, 1, 0, 3, 2, 3], np.int32)
MARGINS = np.array([3.0, -0.5, -2.0, 1.0, -1.0, -0.25, 0.5, np.inf], np.float32)
ANCHORS = (
    [f"A cat, sentence {n} of #many_ *kinds*." for n in range(12)],
    ["<script>alert(1)</script>"],
    ["猫である。"],
    [],
)


def picture(index):
    return Image.new("RGB", (20, 10), (30 * index, 0, 99))


def split_of(labels):
    def fetch(index):
        if index == 2:
            raise ImageReadError("deleted")
        return picture(index)

    return Split(labels, fetch, lambda index: f"test/{index}.jpg")


def transform(image):
    return np.asarray(image.resize((32, 32)))


def head(top1, **groups):
    return {
        "top1": top1,
        "top5": 100.0,
        "class_mean": 45.5,
        "prediction": "argmax",
        "shots": {"standard": groups, "vl_ltr": dict.fromkeys(groups, 1.0)},
    }


SUMMARY = {
    "predicted_by": "lgr",
    "test": {
        "lgr": head(50.0, many=33.3, medium=50.0, few=None),
        "knn": head(25.0, many=1.0, medium=2.0, few=3.0),
    },
    "val": {"lgr": head(75.0, many=4.0, medium=5.0, few=6.0)},
}


def write(logs, predicted=PREDICTED, anchors=ANCHORS):
    train = np.repeat(np.arange(4, dtype=np.int32), COUNTS)
    splits = map(split_of, (train, LABELS, LABELS))
    data = LongTailedData("cats", NAMES, ("",) * 4, *splits)
    ranking = Ranking(
        LABELS,
        np.stack([predicted, (predicted + 1) % 4], axis=1),
        np.tile(np.array([[0.75, 0.25]], np.float32), (8, 1)),
        MARGINS,
    )
    rankings = {"val": ranking, "test": ranking}
    config = settings.Config(seed=7)
    dashboard.write(logs, WORKDIR, config, data, SUMMARY, rankings, transform, anchors)


class Recorder(Logs):
    """Holds what would be written, by kind and name."""

    def __init__(self):
        self.written = collections.defaultdict(dict)

    def scalars(self, step, values):
        self.written["scalars"] |= values

    def result(self, run, configuration, metrics):
        self.written["result"] = {run: (configuration, metrics)}

    def text(self, step, name, content):
        self.written["text"][name] = content

    def images(self, step, name, pictures):
        self.written["images"][name] = pictures

    def histogram(self, step, name, values):
        self.written["histogram"][name] = values


@pytest.fixture(scope="module")
def written():
    recorder = Recorder()
    write(recorder)
    return recorder.written


def test_accuracies_and_margins_are_written(written):
    overall, groups = ("top1", "class_mean"), ("many", "medium", "few")
    assert set(written["scalars"]) == {
        *(f"test/lgr/accuracy/{name}" for name in (*overall, "many", "medium")),
        *(f"test/knn/accuracy/{name}" for name in (*overall, *groups)),
        *(f"val/lgr/accuracy/{name}" for name in (*overall, *groups)),
        *(
            f"{head}/accuracy_vl_ltr/{name}"
            for head in ("test/lgr", "test/knn", "val/lgr")
            for name in groups
        ),
    }
    ((workdir, (configuration, metrics)),) = written["result"].items()
    assert workdir == WORKDIR and configuration["seed"] == 7
    names = [f"accuracy/{name}" for name in ("top1", "class_mean", "many", "medium")]
    assert metrics == dict(zip(names, (50.0, 45.5, 33.3, 50.0), strict=True))
    margins = written["histogram"]
    assert set(margins) == {f"{s}/margin/{g}" for s in ("val", "test") for g in groups}
    assert margins["test/margin/few"].tolist() == [-0.25, 0.5, np.inf]


def test_the_clearest_mistakes_are_shown_with_both_names(written):
    """Breaks if right predictions are taken, or the order of margins is reversed."""
    # Image 2 cannot be read any more: only its row stays.
    (image,) = written["images"]["misclassified/many"]
    expected = dashboard.captioned(
        transform(picture(1)), (f"2. {NAMES[0]}", f"taken for {NAMES[1]}, 75%")
    )
    np.testing.assert_array_equal(image, expected)
    table = written["text"]["misclassified/many/names"].splitlines()
    assert table[0].startswith("2 of 3 test images")
    assert table[4] == r"| 1 | house cat | 日本の猫 א 🐦 | 75% | test/2\.jpg |"
    assert table[5].startswith(
        r"| 2 | house cat | Bärtierchen \*B\.\* \| &lt;b&gt;&amp;"
    )


def test_anchors_are_escaped_and_bounded(written):
    many, medium, few = (
        written["text"][f"anchors/{group}"] for group in ("many", "medium", "few")
    )
    assert r"1. A cat, sentence 0 of \#many\_ \*kinds\*\." in many
    assert many.count("A cat") == dashboard.SENTENCES_PER_CLASS < len(ANCHORS[0])
    assert "house cat (120 training images, 12 anchors)" in many
    assert r"&lt;script&gt;alert\(1\)&lt;/script&gt;" in medium
    assert "猫である。" in few and "ox (1 training image, 0 anchors)" in few


def test_tensorboard_reads_the_event_files(tmp_path):
    with Logs(tmp_path) as logs:
        write(logs)
    assert read_scalars(tmp_path / "result")["accuracy/top1"][1].tolist() == [50.0]
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    names = {f"misclassified/{group}" for group in ("many", "medium", "few")}
    assert names <= set(events.Tags()["tensors"])
    recorder = Recorder()
    write(recorder, predicted=LABELS, anchors=())
    assert not recorder.written["images"]


def test_captions_have_one_size_and_letters_beyond_english():
    pixels = np.full((32, 32, 3), 200, np.uint8)
    captions = ("", *NAMES, "e\u0301\u202e\x00" * 500)
    images = [dashboard.captioned(pixels, (text, "x" * 1000)) for text in captions]
    assert len({image.shape for image in images}) == 1
    # Breaks with a font that has English letters only: all others look alike.
    letters = [dashboard.captioned(pixels, (c,)).tobytes() for c in "éßøžжΩא"]
    assert len(set(letters)) == len(letters)


def test_shown_classes_reach_from_the_largest_to_the_smallest():
    """Breaks if the text grows with the number of classes."""
    counts = np.arange(8142, 0, -1)
    names = [f"class {label}" for label in range(8142)]
    text = dashboard.anchor_text(counts > 0, [["one."]] * 8142, names, counts)
    rows = [int(n.replace(",", "")) for n in re.findall(r"\(([\d,]+) training", text)]
    assert (len(rows), rows[0], rows[-1]) == (dashboard.CLASSES_PER_GROUP, 8142, 1)
    assert rows == sorted(rows, reverse=True)
