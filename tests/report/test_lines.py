"""What stages and runs came to, in a line each."""

import dataclasses
import json

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
}


@pytest.mark.parametrize(
    "summary, told",
    [
        (
            {
                "steps": 1800,
                "images_seen": 230400,
                "losses": {"loss": 3.8321, "a": 1.0},
                "seconds": 72.4,
            },
            "1,800 steps, 230,400 images in 1m 12s, loss 3.832",
        ),
        (
            {"steps": 10, "images_seen": 80, "losses": {}, "seconds": 2.0},
            "10 steps, 80 images in 2s",
        ),
        (
            {"sentences": 4113, "images": 620, "seconds": 4.0},
            "4,113 sentences, 620 images in 4s",
        ),
        (
            {"anchors": 480, "num_anchors": 8, "sentences": 4113, "seconds": 0.6},
            "480 of 4,113 sentences chosen in 1s",
        ),
        ({"arrays": ["bias", "kernel"], "tau": 0.7, "seconds": 3.0}, "finished in 3s"),
        (
            {**EVALUATED, "seconds": 5.0},
            "test 70.7 overall, 85.6 many, 0.0 few (VL-LTR (LGR)), in 5s",
        ),
    ],
)
def test_a_stage_ends_with_what_it_made(summary, told):
    assert of_stage(summary, titles.HEAD_NAMES) == told


CONFIG = dataclasses.replace(
    settings.Config(),
    data=settings.Data(name="cats"),
    init=settings.Init(clip="openai/clip"),
)


@pytest.fixture
def workdir(tmp_path):
    (tmp_path / "report.md").write_text("# Report\n")
    (tmp_path / "results.json").write_text(json.dumps(EVALUATED))
    return epath.Path(tmp_path)


def test_a_run_ends_with_the_papers_table_and_where_the_rest_is(workdir, capsys):
    """Breaks if the whole report scrolls by, or columns do not stand in line."""
    train.print_summary(workdir, CONFIG, {**EVALUATED, "val": {}})
    said = capsys.readouterr()
    assert said.out.splitlines() == [
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
    head, page, numbers, predict, board = said.err.splitlines()
    assert head == f"{workdir} has"  # no report.html here
    assert page.split(maxsplit=1)[0] == "report.md" and "both shot rules" in page
    assert numbers.split(maxsplit=1)[0] == "results.json"
    assert f"-m vl_ltr_jax.predict --workdir={workdir} " in predict
    assert board.endswith(f"tensorboard --logdir {workdir}")


def test_without_labelled_test_images_those_of_validation_are_told():
    nothing = {"top1": None, "shots": {"standard": dict.fromkeys(SHOTS)}}
    results = {"test": {"fc": nothing}, "val": {"fc": EVALUATED["test"]["fc"]}}
    shown = tables.screen(results, "cats", "RN50", titles.HEAD_NAMES)
    assert "on the validation images" in shown and " 1.0 " in shown


def test_a_quiet_run_ends_with_one_line(workdir, capsys):
    console.be_quiet()
    try:
        train.print_summary(workdir, CONFIG, {**EVALUATED, "val": {}})
    finally:
        console.be_quiet(False)
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out == (
        "test 70.7 overall, 85.6 many, 0.0 few (VL-LTR (LGR)): "
        f"{workdir / 'report.md'}\n"
    )


@pytest.mark.parametrize(
    ("epochs", "clip", "name"),
    [
        (1, "openai/clip", "Zero-shot, pre-trained towers"),
        (0, "openai/clip", "Zero-shot CLIP"),
        (0, "", "Zero-shot, random towers"),
    ],
)
def test_zero_shot_is_clips_only_where_nothing_was_trained(epochs, clip, name):
    config = dataclasses.replace(
        CONFIG,
        pretrain=dataclasses.replace(CONFIG.pretrain, epochs=epochs),
        init=settings.Init(clip=clip),
    )
    assert titles.head_names(config)["zero_shot"] == name
    own = dataclasses.replace(config, method="zero_shot_prompt")
    assert titles.head_names(own)["zero_shot"] == "Zero-shot CLIP, one prompt"


def test_the_runs_own_head_comes_first_and_the_rest_in_the_papers_order():
    heads = ["fc", "knn", "lgr", "zero_shot"]
    assert tables.in_order(heads, "lgr") == ["lgr", "fc", "knn", "zero_shot"]
    assert tables.in_order(heads, "knn") == ["knn", "lgr", "fc", "zero_shot"]
    assert tables.in_order(["zero_shot", "crt", "fc"], "crt")[0] == "crt"
