"""Tables and lines about the result of a run."""

import dataclasses

import pytest
from etils import epath

from vl_ltr_jax.commands import train
from vl_ltr_jax.config import settings
from vl_ltr_jax.logs import console
from vl_ltr_jax.report import tables
from vl_ltr_jax.stages.summary import of_stage
from vl_ltr_jax.systems import titles

SHOTS = {"many": 85.56, "medium": None, "few": 0.0}
EVALUATED = {
    "predicted_by": "lgr",
    "test": {
        "fc": {"top1": 1.0, "shots": {"standard": SHOTS}},
        "lgr": {"top1": 70.66, "shots": {"standard": SHOTS}},
    },
    "val": {},
}
LINE = "test 70.7 overall, 85.6 many, 0.0 few (VL-LTR (LGR))"
TRAINED = {"steps": 1800, "images_seen": 230400, "losses": {"loss": 3.8321, "a": 1.0}}
SELECTED = {"anchors": 480, "num_anchors": 8, "sentences": 4113}
CONFIG = dataclasses.replace(
    settings.Config(),
    data=settings.Data(name="cats"),
    init=settings.Init(clip="openai/clip"),
)


@pytest.mark.parametrize(
    "summary, line",
    [
        (TRAINED, "1,800 steps, 230,400 images in 1m 12s, loss 3.832"),
        ({**TRAINED, "losses": {}}, "1,800 steps, 230,400 images in 1m 12s"),
        ({"sentences": 4113, "images": 620}, "4,113 sentences, 620 images in 1m 12s"),
        (SELECTED, "480 of 4,113 sentences chosen in 1m 12s"),
        ({"arrays": ["bias", "kernel"], "tau": 0.7}, "finished in 1m 12s"),
        (EVALUATED, f"{LINE}, in 1m 12s"),
    ],
)
def test_a_stage_ends_with_a_line_about_its_result(summary, line):
    assert of_stage({**summary, "seconds": 72.4}, titles.HEAD_NAMES) == line


def test_a_run_ends_with_the_papers_table(tmp_path, capsys):
    """Breaks if columns are not aligned."""
    (tmp_path / "report.md").write_text("# Report\n")
    train.print_summary(epath.Path(tmp_path), CONFIG, EVALUATED)
    output = capsys.readouterr()
    assert output.out.splitlines() == [
        "",
        "cats: VL-LTR, seed 0",
        "accuracy in percent on the test images",
        "",
        "Method        Backbone  Overall  Many  Medium  Few",
        "--------------------------------------------------",
        "VL-LTR (LGR)  ViT-B/16     70.7  85.6       -  0.0",
        "FC            ViT-B/16      1.0  85.6       -  0.0",
        "",
        f"overall over images; {tables.RULE_NAMES['standard']}",
    ]
    assert "report.md" in output.err and "report.html" not in output.err
    assert f"-m vl_ltr_jax.predict --workdir={tmp_path} " in output.err
    console.be_quiet()
    try:
        train.print_summary(epath.Path(tmp_path), CONFIG, EVALUATED)
    finally:
        console.be_quiet(False)
    assert capsys.readouterr() == (f"{LINE}: {tmp_path / 'report.md'}\n", "")


def test_without_labelled_test_images_the_table_has_those_of_validation():
    empty = {"top1": None, "shots": {"standard": dict.fromkeys(SHOTS)}}
    results = {"test": {"fc": empty}, "val": {"fc": EVALUATED["test"]["fc"]}}
    screen = tables.screen(results, "cats", "RN50", titles.HEAD_NAMES)
    assert "on the validation images" in screen and " 1.0 " in screen


@pytest.mark.parametrize(
    ("epochs", "clip", "name"),
    [
        (1, "openai/clip", "Zero-shot, pre-trained towers"),
        (0, "openai/clip", "Zero-shot CLIP"),
        (0, "", "Zero-shot, random towers"),
    ],
)
def test_zero_shot_is_clips_only_without_training(epochs, clip, name):
    config = dataclasses.replace(
        CONFIG,
        pretrain=dataclasses.replace(CONFIG.pretrain, epochs=epochs),
        init=settings.Init(clip=clip),
    )
    assert titles.head_names(config)["zero_shot"] == name
    prompt = dataclasses.replace(config, method="zero_shot_prompt")
    assert titles.head_names(prompt)["zero_shot"] == "Zero-shot CLIP, one prompt"


def test_the_runs_own_head_comes_first():
    heads = ["fc", "knn", "lgr", "zero_shot"]
    assert tables.in_order(heads, "lgr") == ["lgr", "fc", "knn", "zero_shot"]
    assert tables.in_order(["zero_shot", "crt", "fc"], "crt")[0] == "crt"
