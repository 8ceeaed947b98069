"""The whole road on a small data set, by the function that the main job calls."""

import json

import image_world
import jax
import numpy as np
import pytest
from etils import epath

from vl_ltr_jax import checkpoint, inputs, stages
from vl_ltr_jax import config as configs
from vl_ltr_jax.artifacts import ArtifactError
from vl_ltr_jax.run import WorkdirError


def run(config, workdir):
    checked = configs.from_config_dict(config)
    workdir = epath.Path(workdir)
    read = inputs.read(checked)
    stages.check(checked, workdir, read)
    return stages.run(checked, workdir, read)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = image_world.write(tmp_path_factory.mktemp("data") / "world")
    workdir = tmp_path_factory.mktemp("run")
    return root, workdir, run(image_world.configure(root), workdir)


def test_results_have_the_documented_shape(finished):
    _, workdir, results = finished
    assert json.loads((workdir / "results.json").read_text()) == results
    assert results.keys() == {"test", "val", "data", "cost", "versions"}
    for split in ("test", "val"):
        assert results[split].keys() == {"lgr", "knn", "zero_shot"}
        for head in results[split].values():
            assert head.keys() == {"top1", "top5", "prediction", "shots"}
            assert 0 <= head["top1"] <= head["top5"] == 100.0
            assert head["shots"].keys() == {"standard", "vl_ltr"}
            for groups in head["shots"].values():
                assert groups.keys() == {"many", "medium", "few"}
                assert groups["many"] is None  # no class has that many images
    # 36 images in batches of 8 are 4 steps an epoch, 3 epochs, two stages.
    assert results["cost"]["images_seen"] == 2 * 3 * 4 * 8
    assert results["cost"]["seconds"] > 0
    assert results["data"]["smallest_class"] == 3


def test_shot_groups_add_up_to_the_overall_accuracy(finished):
    """Breaks if evaluation drops the last batch or counts its padding."""
    for split in ("test", "val"):
        for head in finished[2][split].values():
            groups = head["shots"]["standard"]
            # One medium class and two few-shot classes, equally many images each.
            total = (groups["medium"] + 2 * groups["few"]) / 3
            assert head["top1"] == pytest.approx(total)


def test_the_report_is_the_papers_table(finished):
    text = (finished[1] / "report.md").read_text()
    assert "| Method | Backbone | Overall | Many | Medium | Few |" in text
    top1 = finished[2]["test"]["lgr"]["top1"]
    assert f"| VL-LTR (LGR) | ViT-tiny | {top1:.1f} | - |" in text


def test_finished_stages_are_skipped(finished, monkeypatch):
    root, workdir, results = finished

    def fail(this):
        raise AssertionError("a finished stage ran again")

    monkeypatch.setattr(stages, "STAGES", dict.fromkeys(stages.STAGES, fail))
    again = run(image_world.configure(root), workdir)
    assert again["test"] == results["test"]
    assert again["cost"] == results["cost"]


def test_a_changed_configuration_is_refused_by_key(finished):
    root, workdir, _ = finished
    config = image_world.configure(root)
    config.pretrain.learning_rate = 5e-5
    config.finetune.epochs = 4
    with pytest.raises(ArtifactError) as raised:
        run(config, workdir)
    assert "pretrain.learning_rate: 0.0001 then, 5e-05 now" in str(raised.value)
    config.pretrain.learning_rate = 1e-4
    with pytest.raises(ArtifactError, match="'finetune'.*\n.*finetune.epochs"):
        run(config, workdir)


def test_what_changes_speed_only_is_not_refused(finished):
    root, workdir, results = finished
    config = image_world.configure(root)
    config.data.num_threads = 1
    config.log.every_steps = 7
    assert run(config, workdir)["test"] == results["test"]


def test_changed_inputs_are_refused(finished, tmp_path):
    root, workdir, _ = finished
    text = root / "wiki" / "desc_0.txt"
    before = text.read_text()
    text.write_text(before + "It was drawn in 1802.\n")
    try:
        with pytest.raises(ArtifactError, match="inputs: '.*' then, '.*' now"):
            run(image_world.configure(root), workdir)
    finally:
        text.write_text(before)


def test_pretraining_moves_the_towers_and_finetuning_leaves_them(finished):
    root, workdir, _ = finished
    config = configs.from_config_dict(image_world.configure(root))
    before = inputs.read(config).clip["params"]["visual"]
    after = checkpoint.load_params(workdir / "pretrain" / "checkpoints")["params"]
    moved = jax.tree.map(
        lambda a, b: float(np.abs(a - b).max()), before, after["visual"]
    )
    assert max(jax.tree.leaves(moved)) > 1e-5
    tuned = checkpoint.load_params(workdir / "finetune" / "checkpoints")["params"]
    assert tuned.keys() == {"head"}


def test_the_baseline_runs_by_configuration_alone(finished, tmp_path):
    config = image_world.configure(finished[0])
    config.pretrain.epochs = 0
    config.finetune.head = "fc"
    config.finetune.train_image_tower = True
    config.evaluate.knn = False
    config.evaluate.zero_shot = False
    results = run(config, tmp_path)
    assert results["test"].keys() == {"fc"}
    assert results["cost"]["images_seen"] == 3 * 4 * 8
    tuned = checkpoint.load_params(tmp_path / "finetune" / "checkpoints")["params"]
    assert tuned.keys() == {"head", "visual"}


def test_zero_shot_alone_trains_nothing(finished, tmp_path):
    config = image_world.configure(finished[0])
    config.pretrain.epochs = 0
    config.finetune.epochs = 0
    results = run(config, tmp_path)
    assert results["test"].keys() == {"knn", "zero_shot"}
    assert results["cost"]["images_seen"] == 0


def test_a_workdir_that_cannot_be_written_is_named(finished, tmp_path):
    # Root may write anywhere, but nobody makes a directory under a file.
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkdirError, match="file/run cannot be written"):
        run(image_world.configure(finished[0]), tmp_path / "file" / "run")
