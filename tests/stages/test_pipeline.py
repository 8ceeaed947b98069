"""The whole road on a small data set, by the function that the main job calls."""

import json
import shutil

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from processes import secret_run
from vl_ltr_jax.checkpoint import restore
from vl_ltr_jax.commands import export
from vl_ltr_jax.config import build as configs
from vl_ltr_jax.logs.event_files import read_scalars
from vl_ltr_jax.models.port import convert
from vl_ltr_jax.run import initial
from vl_ltr_jax.run import inputs as run_inputs
from vl_ltr_jax.stages import pipeline
from vl_ltr_jax.storage.artifact import ArtifactError
from vl_ltr_jax.storage.workdir import WorkdirError
from worlds import image_world
from worlds.image_world import run


@pytest.fixture(scope="module")
def listened():
    """Sockets that the run below has listened on."""
    return set()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, listened):
    root = image_world.write(tmp_path_factory.mktemp("data") / "world")
    workdir = tmp_path_factory.mktemp("run")
    with secret_run.watched(listened):
        return root, workdir, run(image_world.configure(root), workdir)


def test_a_run_keeps_secrets_and_listens_to_nobody(finished, listened):
    secret_run.check_files(finished[1])
    assert not listened


def test_results_have_the_documented_shape(finished):
    _, workdir, results = finished
    assert json.loads((workdir / "results.json").read_text()) == results
    known = {"test", "val", "predicted_by", "data", "anchors", "cost", "versions"}
    assert results.keys() == known
    for split in ("test", "val"):
        assert results[split].keys() == {"lgr", "knn", "zero_shot"}
        for head in results[split].values():
            assert head.keys() == {"top1", "top5", "class_mean", "prediction", "shots"}
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
            assert head["class_mean"] == pytest.approx(total)


def test_the_report_is_the_papers_table(finished):
    text = (finished[1] / "report.md").read_text()
    assert "| Method | Backbone | Overall | Many | Medium | Few |" in text
    top1 = finished[2]["test"]["lgr"]["top1"]
    assert f"| VL-LTR (LGR) | ViT-tiny | {top1:.1f} | - |" in text


def test_event_files_tell_speed_operations_and_accuracies(finished):
    _, workdir, results = finished
    for stage in ("pretrain", "finetune"):
        curves = read_scalars(workdir / stage)
        steps, rates = curves["throughput/model_teraflops_per_second"]
        assert steps[-1] == 12 and (rates > 0).all()
        assert curves.keys() >= {"loss/total", "step_time/data_ms"}
    top1 = results["test"]["lgr"]["top1"]
    (told,) = read_scalars(workdir / "evaluate" / "result")["accuracy/top1"][1]
    assert told == pytest.approx(top1)


def test_finished_stages_are_skipped(finished, monkeypatch):
    root, workdir, results = finished

    def fail(this):
        raise AssertionError("a finished stage ran again")

    monkeypatch.setattr(pipeline, "STAGES", dict.fromkeys(pipeline.STAGES, fail))
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
    config.data.num_workers = 1
    config.data.bad_image_limit = 0.5
    config.data.cache = ""
    config.log.every_steps = 7
    assert run(config, workdir)["test"] == results["test"]


def test_a_key_that_did_not_exist_then_counts_as_its_default(finished, tmp_path):
    """Breaks when an older workdir is refused for what it could not know."""
    root, workdir, results = finished
    copy = tmp_path / "older"
    shutil.copytree(workdir, copy)
    for stage in ("finetune", "evaluate"):
        path = copy / stage / "settings.json"
        kept = json.loads(path.read_text())
        del kept["finetune.feature_views"]
        path.write_text(json.dumps(kept))
    config = image_world.configure(root)
    assert run(config, copy)["test"] == results["test"]
    config.finetune.feature_views = 1
    with pytest.raises(ArtifactError, match="feature_views: 0 then, 1 now"):
        run(config, copy)


def test_changed_inputs_are_refused(finished, tmp_path):
    root, workdir, _ = finished
    text = root / "wiki" / "desc_0.txt"
    before = text.read_text()
    text.write_text(before + "It was drawn in 1802.\n")
    try:
        told = r"inputs \(lists, .*\): '.*' then, '.*' now"
        with pytest.raises(ArtifactError, match=told):
            run(image_world.configure(root), workdir)
    finally:
        text.write_text(before)


def test_pretraining_moves_the_towers_and_finetuning_leaves_them(finished):
    root, workdir, _ = finished
    config = configs.from_config_dict(image_world.configure(root))
    before = run_inputs.read(config).clip["params"]["visual"]
    after = restore.load_params(workdir / "pretrain" / "checkpoints")["params"]
    moved = jax.tree.map(
        lambda a, b: float(np.abs(a - b).max()), before, after["visual"]
    )
    assert max(jax.tree.leaves(moved)) > 1e-5
    tuned = restore.load_params(workdir / "finetune" / "checkpoints")["params"]
    assert tuned.keys() == {"head"}


def test_the_baseline_runs_by_configuration_alone(finished, tmp_path):
    config = image_world.configure(finished[0])
    config.pretrain.epochs = 0
    config.finetune.head = "fc"
    config.finetune.train_image_tower = True
    config.finetune.mixup_alpha, config.finetune.cutmix_alpha = 0.8, 1.0
    config.evaluate.knn = False
    config.evaluate.zero_shot = False
    results = run(config, tmp_path)
    assert results["test"].keys() == {"fc"}
    assert results["cost"]["images_seen"] == 3 * 4 * 8
    tuned = restore.load_params(tmp_path / "finetune" / "checkpoints")["params"]
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


@pytest.fixture(scope="module")
def left_for_pytorch(finished, tmp_path_factory):
    """The finished run under every family of names."""
    _, workdir, _ = finished
    out = tmp_path_factory.mktemp("out")
    for family in ("hf", "openai", "vl_ltr"):
        made = str(out / family)
        export.main(["--workdir", str(workdir), "--to", family, "--out", made])
    return out


@pytest.mark.parametrize("form", ["safetensors", "pth"])
def test_an_lgr_checkpoint_is_evaluated_without_training(
    finished, left_for_pytorch, tmp_path, form, capsys
):
    """The run's own LGR, out under the authors' names and in again: the same figures.

    Breaks if the head's matrices are transposed on one way only, if padding is lost,
    or if the image tower is not the fine-tuned one.
    """
    root, _, results = finished
    path = left_for_pytorch / "vl_ltr" / convert.LGR_FILE
    if form == "pth":
        state = {name: torch.from_numpy(a) for name, a in load_file(path).items()}
        path = tmp_path / "checkpoint.pth"
        torch.save({"model": state, "epoch": 2}, path)
    config = image_world.configure(root)
    config.init.vl_ltr = str(path)
    config.init.clip = config.init.tokenizer = ""
    found = run(config, tmp_path / "run")
    assert not (tmp_path / "run" / "pretrain").exists()
    for split in ("test", "val"):
        assert found[split].keys() == {"lgr"}
        assert found[split]["lgr"] == results[split]["lgr"]
    assert found["cost"]["images_seen"] == 0
    assert export.main(["--workdir", str(tmp_path / "run"), "--to=hf"]) == 2
    assert "no text tower" in capsys.readouterr().err


def test_a_cvlp_checkpoint_is_evaluated_without_training(
    finished, left_for_pytorch, tmp_path
):
    root, _, results = finished
    config = image_world.configure(root)
    openai = tmp_path / "open_clip_model.safetensors"
    shutil.copy(left_for_pytorch / "openai" / openai.name, openai)
    config.init.vl_ltr = str(openai)
    config.init.clip = ""
    config.init.tokenizer = ""
    with pytest.raises(initial.InputError, match="is a CVLP.*set init.tokenizer"):
        run(config, tmp_path / "no_vocabulary")
    config.init.tokenizer = "tiny_clip"
    found = run(config, tmp_path / "run")
    assert found["test"].keys() == {"knn", "zero_shot"}
    assert found["test"] == {name: results["test"][name] for name in found["test"]}
    out = tmp_path / "out"
    export.main(["--workdir", str(tmp_path / "run"), "--to=openai", f"--out={out}"])
    wanted, again = load_file(openai), load_file(out / openai.name)
    assert again.keys() == wanted.keys()
    for name, tensor in again.items():
        np.testing.assert_array_equal(tensor, wanted[name])


def test_a_trained_tower_opens_in_transformers(finished, left_for_pytorch):
    from transformers import CLIPModel, CLIPTokenizer

    _, workdir, _ = finished
    towers = restore.load_params(workdir / "pretrain" / "checkpoints")["params"]
    model = CLIPModel.from_pretrained(left_for_pytorch / "hf")
    np.testing.assert_array_equal(
        model.visual_projection.weight.detach(), towers["visual"]["proj"]["kernel"].T
    )
    assert model.config.vision_config.image_size == 16
    assert CLIPTokenizer.from_pretrained(left_for_pytorch / "hf").model_max_length == 77


def test_an_lgr_of_other_classes_is_refused(finished, left_for_pytorch, tmp_path):
    root, _, _ = finished
    tensors = load_file(left_for_pytorch / "vl_ltr" / convert.LGR_FILE)
    for name in ("text_embeddings", "text_block.visual_fc.2.weight"):
        tensors[name] = tensors[name][:2]
    tensors["text_block.visual_fc.2.bias"] = tensors["text_block.visual_fc.2.bias"][:2]
    save_file(tensors, tmp_path / "lgr.safetensors")
    config = image_world.configure(root)
    config.init.vl_ltr = str(tmp_path / "lgr.safetensors")
    with pytest.raises(initial.InputError, match="2 classes, but 'world' has 3"):
        run_inputs.read(configs.from_config_dict(config))
    config.init.vl_ltr = str(tmp_path / "gone.pth")
    with pytest.raises(configs.ConfigError, match="init.vl_ltr: no file"):
        configs.from_config_dict(config)


def test_exporting_what_is_not_there(finished, tmp_path, capsys):
    _, workdir, _ = finished
    for arguments, words in (
        (["--workdir", str(tmp_path)], "config.json cannot be read"),
        (["--workdir", str(workdir), "--out", str(workdir)], "is in use"),
    ):
        assert export.main([*arguments, "--to", "hf"]) == 2
        assert words in capsys.readouterr().err
