"""Tables and lines about the result of a run."""

import dataclasses

import pytest
from etils import epath

from vl_ltr_jax.commands import train
from vl_ltr_jax.config import settings
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
CONFIG = dataclasses.replace(
    settings.Config(),
    data=settings.Data(name="cats"),
    init=settings.Init(clip="openai/clip"),
)


def test_a_run_ends_with_the_papers_table(tmp_path, capsys):
    """Breaks if columns are not aligned."""
    (tmp_path / "report.md").write_text("# Report\n")
    train.print_summary(epath.Path(tmp_path), CONFIG, EVALUATED)
    output = capsys.readouterr()
    assert output.out.splitlines()[4:8] == [
        "Method        Backbone  Overall  Many  Medium  Few",
        "--------------------------------------------------",
        "VL-LTR (LGR)  ViT-B/16     70.7  85.6       -  0.0",
        "FC            ViT-B/16      1.0  85.6       -  0.0",
    ]
    assert "report.md" in output.err and "report.html" not in output.err
    assert f"-m vl_ltr_jax.predict --workdir={tmp_path} " in output.err


@pytest.mark.parametrize(
    ("method", "epochs", "clip", "name"),
    [
        ("vl_ltr", 1, "openai/clip", "Zero-shot, pre-trained towers"),
        ("vl_ltr", 0, "openai/clip", "Zero-shot CLIP"),
        ("vl_ltr", 0, "", "Zero-shot, random towers"),
        ("zero_shot_prompt", 0, "openai/clip", "Zero-shot CLIP, one prompt"),
    ],
)
def test_zero_shot_is_clips_only_without_training(method, epochs, clip, name):
    pretrain = dataclasses.replace(CONFIG.pretrain, epochs=epochs)
    changes = {"pretrain": pretrain, "init": settings.Init(clip=clip)}
    config = dataclasses.replace(CONFIG, method=method, **changes)
    assert titles.head_names(config)["zero_shot"] == name
