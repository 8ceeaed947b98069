"""TensorBoard opens a workdir and shows the evaluation of a run."""

import contextlib
import gzip
import html
import io
import json
import os
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import numpy as np
import pytest
from PIL import Image

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


def write(directory, predicted=PREDICTED, anchors=ANCHORS):
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
    with Logs(directory) as logs:
        dashboard.write(
            logs, WORKDIR, config, data, SUMMARY, rankings, transform, anchors
        )


class Board:
    """TensorBoard's data API."""

    def __init__(self, url):
        self.url = url

    def get(self, plugin, path, **query):
        """Returns the answer of a plugin as bytes."""
        url = f"{self.url}data/plugin/{plugin}/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=60) as answer:
            content = answer.read()
            packed = answer.headers["Content-Encoding"] == "gzip"
            return gzip.decompress(content) if packed else content

    def ask(self, plugin, path, **query):
        return json.loads(self.get(plugin, path, **query))

    def text(self, tag):
        (event,) = self.ask("text", "text", run="evaluate", tag=tag)
        return event["text"]


@contextlib.contextmanager
def serving(workdir):
    command = [sys.executable, "-m", "tensorboard.main", f"--logdir={workdir}"]
    process = subprocess.Popen(
        [*command, "--host=127.0.0.1", "--port=0"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    try:
        for line in process.stderr:
            if match := re.search(r"http://127\.0\.0\.1:\d+/", line):
                break
        yield Board(match[0])
    finally:
        process.terminate()
        process.stderr.close()
        process.wait(60)


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("workdir")
    write(workdir / "evaluate")
    with serving(workdir) as board:
        deadline = time.monotonic() + 60
        while len(board.ask("text", "tags").get("evaluate", ())) < 6 or (
            "evaluate/result" not in board.ask("scalars", "tags")
        ):
            assert time.monotonic() < deadline, "TensorBoard has not read the workdir"
            time.sleep(0.2)
        yield board


def test_accuracies_and_margins_are_shown(board):
    tags = board.ask("scalars", "tags")
    overall, groups = ("top1", "class_mean"), ("many", "medium", "few")
    assert set(tags["evaluate"]) == {
        *(f"test/lgr/accuracy/{name}" for name in (*overall, "many", "medium")),
        *(f"test/knn/accuracy/{name}" for name in (*overall, *groups)),
        *(f"val/lgr/accuracy/{name}" for name in (*overall, *groups)),
        *(
            f"{head}/accuracy_vl_ltr/{name}"
            for head in ("test/lgr", "test/knn", "val/lgr")
            for name in groups
        ),
    }
    query = {"run": "evaluate/result", "tag": "accuracy/top1"}
    ((_, _, top1),) = board.ask("scalars", "scalars", **query)
    assert top1 == 50.0
    tags = board.ask("histograms", "tags")["evaluate"]
    assert set(tags) == {f"{s}/margin/{g}" for s in ("val", "test") for g in groups}
    query = {"run": "evaluate", "tag": "test/margin/few"}
    ((_, _, bins),) = board.ask("histograms", "histograms", **query)
    # One of three few-shot images has an infinite margin.
    assert sum(count for *_, count in bins) == 2
    assert (bins[0][0], bins[-1][1]) == (-0.25, 0.5)


def test_the_clearest_mistakes_are_shown_with_both_names(board):
    """Breaks if right predictions are taken, or the order of margins is reversed."""
    tags = board.ask("images", "tags")["evaluate"]
    assert set(tags) == {f"misclassified/{g}" for g in ("many", "medium", "few")}
    # Image 2 cannot be read any more: only its row stays.
    assert tags["misclassified/many"]["samples"] == 1
    query = {"run": "evaluate", "tag": "misclassified/many", "sample": 0}
    image = board.ask("images", "images", **query)[0]
    query = dict(urllib.parse.parse_qsl(image["query"]))
    png = Image.open(io.BytesIO(board.get("images", "individualImage", **query)))
    expected = dashboard.captioned(
        transform(picture(1)), (f"2. {NAMES[0]}", f"taken for {NAMES[1]}, 75%")
    )
    np.testing.assert_array_equal(np.asarray(png.convert("RGB")), expected)
    table = board.text("misclassified/many/names")
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.S)
    cells = [
        [html.unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", row, re.S)]
        for row in rows[1:]
    ]
    assert cells == [
        ["1", NAMES[0], "日本の猫 א 🐦", "75%", "test/2.jpg"],
        ["2", NAMES[0], NAMES[1], "75%", "test/1.jpg"],
    ]
    assert "2 of 3 test images" in table


def test_anchors_are_shown_unchanged(board):
    many, medium, few = (board.text(f"anchors/{g}") for g in ("many", "medium", "few"))
    assert "<li>A cat, sentence 0 of #many_ *kinds*.</li>" in many
    assert many.count("<li>") == dashboard.SENTENCES_PER_CLASS < len(ANCHORS[0])
    assert "house cat (120 training images, 12 anchors)" in many
    assert "<li>&lt;script&gt;alert(1)&lt;/script&gt;</li>" in medium
    assert "猫である。" in few and "ox (1 training image, 0 anchors)" in few


def test_runs_are_compared_by_their_results_alone(board):
    about = {"experimentName": "", "includeMetrics": True}
    experiment = board.ask("hparams", "experiment", request=json.dumps(about))
    metrics = [info["name"] for info in experiment["metricInfos"]]
    names = [f"accuracy/{name}" for name in ("class_mean", "many", "medium", "top1")]
    assert metrics == [{"group": "", "tag": name} for name in names]
    statuses = ("UNKNOWN", "SUCCESS", "FAILURE", "RUNNING")
    request = {
        "experimentName": "",
        "allowedStatuses": [f"STATUS_{status}" for status in statuses],
        "colParams": [{"metric": metric} for metric in metrics],
        "startIndex": 0,
        "sliceSize": 10,
    }
    answer = board.ask("hparams", "session_groups", request=json.dumps(request))
    (row,) = answer["sessionGroups"]
    assert row["name"] == WORKDIR
    assert row["hparams"]["seed"] == 7 and row["hparams"]["finetune.head"] == "lgr"
    values = {metric["name"]["tag"]: metric["value"] for metric in row["metricValues"]}
    expected = dict(zip(names, (45.5, 33.3, 50.0, 50.0), strict=True))
    assert values == pytest.approx(expected)  # few has no images


def test_a_run_without_anchors_or_mistakes_is_written(tmp_path):
    write(tmp_path, predicted=LABELS, anchors=())
    assert read_scalars(tmp_path / "result")["accuracy/top1"][1].tolist() == [50.0]


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
