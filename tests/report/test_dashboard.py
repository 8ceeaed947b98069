"""TensorBoard opens a workdir and shows what a run and its evaluation wrote."""

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

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vl_ltr_jax.config import settings
from vl_ltr_jax.data.images.decode import ImageReadError
from vl_ltr_jax.data.sources.dataset import LongTailedData, Split
from vl_ltr_jax.logs.event_files import Logs, read_scalars
from vl_ltr_jax.report import dashboard

# A many-shot, a medium and two few-shot classes; names that Markdown, HTML, a font or
# UTF-8 could stumble over.
NAMES = ("house cat", "Bärtierchen *B.* | <b>&", "日本の猫 \u05d0\ud800\n🐦", "ox")
COUNTS = (120, 50, 5, 1)
WORKDIR = "runs/cats"
LABELS = np.array([0, 0, 0, 1, 1, 2, 2, 3], np.int32)
SAID = np.array([0, 1, 2, 1, 0, 3, 2, 3], np.int32)
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
            raise ImageReadError("gone")
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


def write(logs, anchors=ANCHORS):
    train = np.repeat(np.arange(4, dtype=np.int32), COUNTS)
    data = LongTailedData(
        "cats", NAMES, ("",) * 4, *map(split_of, (train, LABELS, LABELS))
    )
    kept = {
        "labels": LABELS,
        "classes": np.stack([SAID, (SAID + 1) % 4], axis=1),
        "probabilities": np.tile(np.array([[0.75, 0.25]], np.float32), (8, 1)),
        "margins": MARGINS,
        "features": np.zeros((8, 2), np.float32),
    }
    images = {"val": kept, "test": kept}
    config = settings.Config(seed=7)
    dashboard.write(logs, WORKDIR, config, data, SUMMARY, images, transform, anchors)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """What a training stage and evaluation leave, in small."""
    root = tmp_path_factory.mktemp("workdir")
    step = jax.jit(lambda x: x @ x)
    with Logs(root / "finetune", profile_steps=2) as logs:
        for count in range(1, 9):
            jax.block_until_ready(step(jnp.ones((8, 8))))
            logs.after_step(count)
            values = {"loss/total": 1.0 / count, "accuracy/batch_top1": 99.0}
            logs.scalars(count, values)
    with Logs(root / "evaluate") as logs:
        write(logs)
    return root


class Board:
    """TensorBoard's data API."""

    def __init__(self, url):
        self.url = url

    def get(self, plugin, path, **query):
        """What a plugin answers, as bytes."""
        url = f"{self.url}data/plugin/{plugin}/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=60) as answer:
            said = answer.read()
            packed = answer.headers["Content-Encoding"] == "gzip"  # unasked
            return gzip.decompress(said) if packed else said

    def ask(self, plugin, path, **query):
        return json.loads(self.get(plugin, path, **query))

    def text(self, run, tag):
        (found,) = self.ask("text", "text", run=run, tag=tag)
        return found["text"]


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
            if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
                break
        yield Board(found[0])
    finally:
        process.terminate()
        process.stderr.close()
        process.wait(60)


@pytest.fixture(scope="module")
def board(workdir):
    with serving(workdir) as board:
        deadline = time.monotonic() + 60
        while len(board.ask("text", "tags").get("evaluate", ())) < 6 or (
            "evaluate/result" not in board.ask("scalars", "tags")
        ):
            assert time.monotonic() < deadline, "TensorBoard has not read the workdir"
            time.sleep(0.2)
        yield board


def test_scalars_of_training_and_evaluation_are_shown(board):
    tags = board.ask("scalars", "tags")
    assert set(tags["finetune"]) == {"loss/total", "accuracy/batch_top1"}
    curve = board.ask("scalars", "scalars", run="finetune", tag="loss/total")
    assert [step for _, step, _ in curve] == list(range(1, 9))
    assert [value for *_, value in curve] == pytest.approx([1 / n for n in range(1, 9)])
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
    ((_, _, top1),) = board.ask(
        "scalars", "scalars", run="evaluate/result", tag="accuracy/top1"
    )
    assert top1 == 50.0


def test_margins_are_shown_by_group(board):
    tags = board.ask("histograms", "tags")["evaluate"]
    groups = ("many", "medium", "few")
    assert set(tags) == {f"{s}/margin/{g}" for s in ("val", "test") for g in groups}
    ((_, _, bins),) = board.ask(
        "histograms", "histograms", run="evaluate", tag="test/margin/few"
    )
    # Of the three few-shot images one has an infinite margin: no other class is likely.
    assert sum(count for *_, count in bins) == 2
    assert (bins[0][0], bins[-1][1]) == (-0.25, 0.5)


def test_the_clearest_mistakes_are_shown_with_both_names(board):
    """Breaks if right ones are taken, or the order of margins turns round."""
    tags = board.ask("images", "tags")["evaluate"]
    assert set(tags) == {f"misclassified/{g}" for g in ("many", "medium", "few")}
    # Image 2 cannot be read any more: its row stays.
    assert tags["misclassified/many"]["samples"] == 1
    found = board.ask(
        "images", "images", run="evaluate", tag="misclassified/many", sample=0
    )
    query = dict(urllib.parse.parse_qsl(found[0]["query"]))
    png = Image.open(io.BytesIO(board.get("images", "individualImage", **query)))
    want = dashboard.captioned(
        transform(picture(1)), (f"2. {NAMES[0]}", f"taken for {NAMES[1]}, 75%")
    )
    np.testing.assert_array_equal(np.asarray(png.convert("RGB")), want)
    rows = re.findall(
        r"<tr>(.*?)</tr>", board.text("evaluate", "misclassified/many/names"), re.S
    )
    cells = [
        [html.unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", row, re.S)]
        for row in rows[1:]
    ]
    assert cells == [
        ["1", NAMES[0], "日本の猫 א 🐦", "75%", "test/2.jpg"],
        ["2", NAMES[0], NAMES[1], "75%", "test/1.jpg"],
    ]
    assert "2 of 3 test images" in board.text("evaluate", "misclassified/many/names")


def test_anchors_are_shown_as_they_are(board):
    many, medium, few = (
        board.text("evaluate", f"anchors/{group}")
        for group in ("many", "medium", "few")
    )
    assert "<li>A cat, sentence 0 of #many_ *kinds*.</li>" in many
    assert many.count("<li>") == dashboard.SHOWN_SENTENCES < len(ANCHORS[0])
    assert "house cat (120 training images, 12 anchors)" in many
    assert "<li>&lt;script&gt;alert(1)&lt;/script&gt;</li>" in medium
    assert "猫である。" in few
    assert few.index("5 training images") < few.index(
        "ox (1 training image, 0 anchors)"
    )


def test_runs_are_compared_by_their_results_and_nothing_else(board):
    """Breaks if training logs hyper-parameters: its batch accuracy looks like one."""
    about = {"experimentName": "", "includeMetrics": True}
    experiment = board.ask("hparams", "experiment", request=json.dumps(about))
    metrics = [info["name"] for info in experiment["metricInfos"]]
    names = [f"accuracy/{name}" for name in ("class_mean", "many", "medium", "top1")]
    assert metrics == [{"group": "", "tag": name} for name in names]
    request = {
        "experimentName": "",
        "allowedStatuses": [
            "STATUS_UNKNOWN",
            "STATUS_SUCCESS",
            "STATUS_FAILURE",
            "STATUS_RUNNING",
        ],
        "colParams": [{"metric": metric} for metric in metrics],
        "startIndex": 0,
        "sliceSize": 10,
    }
    asked = json.dumps(request)
    (row,) = board.ask("hparams", "session_groups", request=asked)["sessionGroups"]
    assert row["name"] == WORKDIR
    assert row["hparams"]["seed"] == 7 and row["hparams"]["finetune.head"] == "lgr"
    shown = {metric["name"]["tag"]: metric["value"] for metric in row["metricValues"]}
    want = dict(zip(names, (45.5, 33.3, 50.0, 50.0), strict=True))
    assert shown == pytest.approx(want)  # few has no images


def test_the_profile_is_shown(board, workdir):
    (directory,) = (workdir / "finetune" / "plugins" / "profile").iterdir()
    (run,) = board.ask("profile", "runs")
    assert run == f"finetune/{directory.name}"
    tools = board.ask("profile", "run_tools", run=run)
    assert {"overview_page", "trace_viewer@"} <= set(tools)
    trace = board.ask("profile", "data", run=run, tag="trace_viewer@")
    assert trace["traceEvents"]


def test_a_run_without_anchors_or_mistakes_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "SAID", LABELS)
    with Logs(tmp_path) as logs:
        write(logs, ())
    assert read_scalars(tmp_path / "result")["accuracy/top1"][1].tolist() == [50.0]


def test_only_process_0_reads_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(Split, "read", None)
    with Logs(tmp_path / "run") as logs:
        write(logs)
    assert not (tmp_path / "run").exists()


def test_captions_are_drawn_below_the_picture_whatever_they_say():
    pixels = np.full((32, 32, 3), 200, np.uint8)
    drawn = {
        name: dashboard.captioned(pixels, (name, "x" * 1000))
        for name in ("", *NAMES, "e\u0301\u202e\x00" * 500)
    }
    assert len({image.shape for image in drawn.values()}) == 1
    for image in drawn.values():
        np.testing.assert_array_equal(image[:224], 200)
        assert (image[224:].min(axis=2) < 128).any()
    # Breaks with a font that has English letters only: all others look alike.
    letters = [dashboard.captioned(pixels, (c,)).tobytes() for c in "éßøžжΩא"]
    assert len(set(letters)) == len(letters)


def test_shown_classes_reach_from_the_largest_to_the_smallest():
    """A text of all 8,142 classes would be of no use, and fifty megabytes."""
    counts = np.arange(8142, 0, -1)
    names = [f"class {label}" for label in range(8142)]
    text = dashboard.anchor_text(counts > 0, [["one."]] * 8142, names, counts)
    shown = [int(n.replace(",", "")) for n in re.findall(r"\(([\d,]+) training", text)]
    assert (len(shown), shown[0], shown[-1]) == (dashboard.SHOWN_CLASSES, 8142, 1)
    assert shown == sorted(shown, reverse=True)
    assert text.startswith(f"{dashboard.SHOWN_CLASSES} of 8,142 classes")
