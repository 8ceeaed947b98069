"""What stages and runs came to, in a line each."""

import json

import pytest
from etils import epath

from vl_ltr_jax import outcomes, report, terminal

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
    assert outcomes.of_stage(summary, report.HEAD_NAMES) == told


@pytest.fixture
def workdir(tmp_path):
    (tmp_path / "report.md").write_text("# Report\n")
    (tmp_path / "results.json").write_text(json.dumps(EVALUATED))
    return epath.Path(tmp_path)


def test_a_run_ends_with_its_files_and_what_comes_next(workdir, capsys):
    outcomes.tell_end(workdir, EVALUATED, report.HEAD_NAMES)
    said = capsys.readouterr()
    assert said.out == "# Report\n\n"
    files, predict, board = said.err.splitlines()
    assert files == f"{workdir} has report.md, results.json"  # no report.html here
    assert f"-m vl_ltr_jax.predict --workdir={workdir} " in predict
    assert board.endswith(f"tensorboard --logdir {workdir}")


def test_a_quiet_run_ends_with_one_line(workdir, capsys):
    terminal.be_quiet()
    try:
        outcomes.tell_end(workdir, EVALUATED, report.HEAD_NAMES)
    finally:
        terminal.be_quiet(False)
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out == (
        "test 70.7 overall, 85.6 many, 0.0 few (VL-LTR (LGR)): "
        f"{workdir / 'report.md'}\n"
    )
