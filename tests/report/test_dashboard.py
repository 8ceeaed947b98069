"""TensorBoard's view of an evaluated run."""

import collections

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
from worlds import report_world

# A many-shot, a medium and two few-shot classes; names that need escapes in Markdown,
# HTML or UTF-8, or that a font lacks.
NAMES = ("house cat", "Bärtierchen *B.* | <b>&", "日本の猫 \u05d0\ud800\n🐦", "ox")
COUNTS = (120, 50, 5, 1)
LABELS = np.array([0, 0, 0, 1, 1, 2, 2, 3], np.int32)
PREDICTED = np.array([0, 1, 2, 1, 0, 3, 2, 3], np.int32)
MARGINS = np.array([3.0, -0.5, -2.0, 1.0, -1.0, -0.25, 0.5, np.inf], np.float32)
ANCHORS = (
    [f"A cat, sentence {n} of #many_ *kinds*." for n in range(12)],
    ["<script>alert(1)</script>"],
    ["猫である。"],
    [],
)
SUMMARY = {"predicted_by": "lgr", **report_world.results()}


def picture(index):
    if index == 2:
        raise ImageReadError("deleted")
    return Image.new("RGB", (20, 10), (30 * index, 0, 99))


def transform(image):
    return np.asarray(image.resize((32, 32)))


def write(logs):
    train = np.repeat(np.arange(4, dtype=np.int32), COUNTS)
    splits = (
        Split(labels, picture, lambda index: f"test/{index}.jpg")
        for labels in (train, LABELS, LABELS)
    )
    data = LongTailedData("cats", NAMES, ("",) * 4, *splits)
    ranking = Ranking(
        LABELS,
        np.stack([PREDICTED, (PREDICTED + 1) % 4], axis=1),
        np.tile(np.array([[0.75, 0.25]], np.float32), (8, 1)),
        MARGINS,
    )
    rankings = {"val": ranking, "test": ranking}
    config = settings.Config(seed=7)
    dashboard.write(logs, "run", config, data, SUMMARY, rankings, transform, ANCHORS)


class Recorder(Logs):
    """Holds what would be written, by kind and name."""

    def __init__(self):
        self.written = collections.defaultdict(dict)

    def result(self, run, configuration, metrics):
        self.written["result"] = (run, configuration, metrics)

    def _write(self, kind, step, values):
        self.written[kind] |= values


@pytest.fixture(scope="module")
def written():
    recorder = Recorder()
    write(recorder)
    return recorder.written


def test_accuracies_and_margins_are_written(written):
    groups = ("many", "medium", "few")
    names = {
        f"{head}/{rule}/{name}"
        for head in ("test/lgr", "test/zero_shot", "val/lgr")
        for rule in ("accuracy", "accuracy_vl_ltr")
        for name in (*groups, *(("top1", "class_mean") if rule == "accuracy" else ()))
    }
    # A group without images has no accuracy.
    assert written["scalars"].keys() == names - {"test/zero_shot/accuracy/few"}
    workdir, configuration, metrics = written["result"]
    assert workdir == "run" and configuration["seed"] == 7
    names = [f"accuracy/{name}" for name in ("top1", "class_mean", *groups)]
    assert metrics == dict(zip(names, (71.25, 68.5, 85.5, 76.25, 56.5), strict=True))
    margins = written["histograms"]
    assert set(margins) == {f"{s}/margin/{g}" for s in ("val", "test") for g in groups}
    assert margins["test/margin/few"].tolist() == [-0.25, 0.5]  # the finite ones


def test_the_clearest_mistakes_are_shown_with_both_names(written):
    """Breaks if right predictions are taken, or the order of margins is reversed."""
    # Image 2 cannot be read any more: only its row stays.
    (image,) = written["images"]["misclassified/many"]
    expected = dashboard.captioned(
        transform(picture(1)), (f"2. {NAMES[0]}", f"taken for {NAMES[1]}, 75%")
    )
    np.testing.assert_array_equal(image, expected)
    table = written["texts"]["misclassified/many/names"].splitlines()
    assert table[4] == r"| 1 | house cat | 日本の猫 א 🐦 | 75% | test/2\.jpg |"
    assert table[5].startswith(
        r"| 2 | house cat | Bärtierchen \*B\.\* \| &lt;b&gt;&amp;"
    )


def test_anchors_are_escaped_and_bounded(written):
    many, medium, few = (
        written["texts"][f"anchors/{group}"] for group in ("many", "medium", "few")
    )
    assert r"1. A cat, sentence 0 of \#many\_ \*kinds\*\." in many
    assert many.count("A cat") == dashboard.SENTENCES_PER_CLASS < len(ANCHORS[0])
    assert r"&lt;script&gt;alert\(1\)&lt;/script&gt;" in medium
    assert "猫である。" in few and "ox (1 training image, 0 anchors)" in few


def test_tensorboard_reads_the_event_files(tmp_path):
    with Logs(tmp_path) as logs:
        write(logs)
    assert read_scalars(tmp_path / "result")["accuracy/top1"][1].tolist() == [71.25]
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    names = {f"misclassified/{group}" for group in ("many", "medium", "few")}
    assert names <= set(events.Tags()["tensors"])


def test_captions_have_one_size_and_letters_beyond_english():
    pixels = np.full((32, 32, 3), 200, np.uint8)
    captions = ("", *NAMES, "e\u0301\u202e\x00" * 500)
    images = [dashboard.captioned(pixels, (text, "x" * 1000)) for text in captions]
    assert len({image.shape for image in images}) == 1
    # Breaks with a font that has English letters only: all others look alike.
    letters = [dashboard.captioned(pixels, (c,)).tobytes() for c in "éßøžжΩא"]
    assert len(set(letters)) == len(letters)
