"""All stages on a small data set, by the functions of the main job."""

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
from worlds import image_world
from worlds.image_world import run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = image_world.write(tmp_path_factory.mktemp("data") / "world")
    workdir = tmp_path_factory.mktemp("run")
    sockets = set()
    with secret_run.watched(sockets):
        results = run(image_world.configure(root), workdir)
    assert not sockets  # a run listens to nobody
    return root, workdir, results


def test_a_run_keeps_secrets(finished):
    secret_run.check_files(finished[1])


def test_results_have_the_documented_shape(finished):
    _, workdir, results = finished
    assert json.loads((workdir / "results.json").read_text()) == results
    keys = {"test", "val", "predicted_by", "data", "anchors", "cost", "versions"}
    assert results.keys() == keys
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


def test_report_and_event_files_have_speed_and_accuracies(finished):
    _, workdir, results = finished
    top1 = results["test"]["lgr"]["top1"]
    row = f"| VL-LTR (LGR) | ViT-tiny | {top1:.1f} | - |"
    assert row in (workdir / "report.md").read_text()
    for stage in ("pretrain", "finetune"):
        curves = read_scalars(workdir / stage)
        steps, rates = curves["throughput/model_teraflops_per_second"]
        assert steps[-1] == 12 and (rates > 0).all()
        assert curves.keys() >= {"loss/total", "step_time/data_ms"}
    (logged,) = read_scalars(workdir / "evaluate" / "result")["accuracy/top1"][1]
    assert logged == pytest.approx(top1)


def test_finished_stages_are_skipped(finished, monkeypatch):
    """Also if keys change that results do not depend on."""
    root, workdir, results = finished

    def fail(run):
        raise AssertionError("a finished stage ran again")

    monkeypatch.setattr(pipeline, "STAGES", dict.fromkeys(pipeline.STAGES, fail))
    changes = {"data__num_threads": 1, "data__num_workers": 1, "log__every_steps": 7}
    changes |= {"data__bad_image_limit": 0.5, "data__cache": ""}
    again = run(image_world.change(image_world.configure(root), **changes), workdir)
    assert again["test"] == results["test"]
    assert again["cost"] == results["cost"]


def test_a_changed_key_or_text_is_refused(finished):
    root, workdir, _ = finished
    config = image_world.change(image_world.configure(root), finetune__epochs=4)
    with pytest.raises(ArtifactError, match="finetune.epochs"):
        run(config, workdir)
    text = root / "wiki" / "desc_0.txt"
    before = text.read_text()
    text.write_text(before + "It was drawn in 1802.\n")
    try:
        with pytest.raises(ArtifactError, match="inputs"):
            run(image_world.configure(root), workdir)
    finally:
        text.write_text(before)


def test_pretraining_moves_the_towers_and_finetuning_does_not(finished):
    root, workdir, _ = finished
    config = configs.from_config_dict(image_world.configure(root))
    before = run_inputs.read(config).clip["params"]["visual"]
    after = restore.load_params(workdir / "pretrain" / "checkpoints")["params"]
    distances = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, after["visual"])
    assert max(jax.tree.leaves(distances)) > 1e-5
    tuned = restore.load_params(workdir / "finetune" / "checkpoints")["params"]
    assert tuned.keys() == {"head"}


def test_the_baseline_runs_by_configuration_alone(finished, tmp_path):
    config = image_world.change(
        image_world.configure(finished[0]),
        pretrain__epochs=0,
        finetune__head="fc",
        finetune__train_image_tower=True,
        finetune__mixup_alpha=0.8,
        finetune__cutmix_alpha=1.0,
        evaluate__knn=False,
        evaluate__zero_shot=False,
    )
    results = run(config, tmp_path)
    assert results["test"].keys() == {"fc"}
    assert results["cost"]["images_seen"] == 3 * 4 * 8
    tuned = restore.load_params(tmp_path / "finetune" / "checkpoints")["params"]
    assert tuned.keys() == {"head", "visual"}


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    """The finished run under every family of names."""
    _, workdir, _ = finished
    out = tmp_path_factory.mktemp("out")
    for family in ("hf", "openai", "vl_ltr"):
        arguments = ["--to", family, "--out", str(out / family)]
        export.main(["--workdir", str(workdir), *arguments])
    return out


def test_an_lgr_checkpoint_is_evaluated_without_training(
    finished, exported, tmp_path, capsys
):
    """The run's own LGR under the authors' names has the same accuracies.

    Breaks if the head's matrices are transposed only once, or padding is lost. Breaks
    if the image tower is not the fine-tuned one.
    """
    root, _, results = finished
    tensors = load_file(exported / "vl_ltr" / convert.LGR_FILE)
    state = {name: torch.from_numpy(array) for name, array in tensors.items()}
    torch.save({"model": state, "epoch": 2}, tmp_path / "checkpoint.pth")
    config = image_world.configure(root)
    config.init.vl_ltr = str(tmp_path / "checkpoint.pth")
    config.init.clip = config.init.tokenizer = ""
    again = run(config, tmp_path / "run")
    assert not (tmp_path / "run" / "pretrain").exists()
    for split in ("test", "val"):
        assert again[split] == {"lgr": results[split]["lgr"]}
    assert again["cost"]["images_seen"] == 0
    assert export.main(["--workdir", str(tmp_path / "run"), "--to=hf"]) == 2
    assert "no text tower" in capsys.readouterr().err


def test_a_cvlp_checkpoint_is_evaluated_without_training(finished, exported, tmp_path):
    root, _, results = finished
    config = image_world.configure(root)
    openai = tmp_path / "open_clip_model.safetensors"
    shutil.copy(exported / "openai" / openai.name, openai)
    config.init.vl_ltr = str(openai)
    config.init.clip = config.init.tokenizer = ""
    with pytest.raises(initial.InputError, match="init.tokenizer"):
        run(config, tmp_path / "no_vocabulary")
    config.init.tokenizer = "tiny_clip"
    again = run(config, tmp_path / "run")
    assert again["test"] == {name: results["test"][name] for name in again["test"]}
    assert again["test"].keys() == {"knn", "zero_shot"}
    out = tmp_path / "out"
    export.main(["--workdir", str(tmp_path / "run"), "--to=openai", f"--out={out}"])
    expected, tensors = load_file(openai), load_file(out / openai.name)
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, expected[name])


def test_a_trained_tower_opens_in_transformers(finished, exported):
    from transformers import CLIPModel, CLIPTokenizer

    _, workdir, _ = finished
    towers = restore.load_params(workdir / "pretrain" / "checkpoints")["params"]
    model = CLIPModel.from_pretrained(exported / "hf")
    np.testing.assert_array_equal(
        model.visual_projection.weight.detach(), towers["visual"]["proj"]["kernel"].T
    )
    assert model.config.vision_config.image_size == 16
    assert CLIPTokenizer.from_pretrained(exported / "hf").model_max_length == 77


def test_an_lgr_of_other_classes_is_refused(finished, exported, tmp_path):
    root, _, _ = finished
    tensors = load_file(exported / "vl_ltr" / convert.LGR_FILE)
    fc2 = "text_block.visual_fc.2"
    for name in ("text_embeddings", f"{fc2}.weight", f"{fc2}.bias"):
        tensors[name] = tensors[name][:2]
    save_file(tensors, tmp_path / "lgr.safetensors")
    config = image_world.configure(root)
    config.init.vl_ltr = str(tmp_path / "lgr.safetensors")
    with pytest.raises(initial.InputError, match="init.vl_ltr"):
        run_inputs.read(configs.from_config_dict(config))
    config.init.vl_ltr = str(tmp_path / "gone.pth")
    with pytest.raises(configs.ConfigError, match="init.vl_ltr"):
        configs.from_config_dict(config)
