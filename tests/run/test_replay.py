"""Steps that are not finite: kept, skipped, and made again by replay."""

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from jax.experimental.compilation_cache import compilation_cache
from PIL import Image

from vl_ltr_jax import systems
from vl_ltr_jax.checkpoint import restore
from vl_ltr_jax.commands import replay
from vl_ltr_jax.config import build as configs
from vl_ltr_jax.data.batches import sampler
from vl_ltr_jax.run import inputs as run_inputs
from vl_ltr_jax.run.replay import diagnosis
from vl_ltr_jax.run.replay.array_sizes import ArraySize
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.runtime import compilation_cache as programs
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.storage.artifact import write_array
from vl_ltr_jax.train import incidents
from vl_ltr_jax.train.non_finite import NonFiniteLossError
from worlds import image_world

STEPS, BATCH = 12, 8


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return image_world.write(tmp_path_factory.mktemp("data") / "world")


def configure(root, **changes):
    """An FC on features that are kept of a frozen tower: steps of milliseconds."""
    config = image_world.configure(root)
    config.pretrain.epochs = 0
    config.finetune.feature_views, config.finetune.head = 1, "fc"
    config.finetune.warmup_epochs = 0
    config.evaluate.knn = False
    config.evaluate.zero_shot_text = "sentences"
    config.log.checkpoint_every_steps, config.log.keep_checkpoints = 1, STEPS
    return image_world.change(config, **changes)


def images_of(root, steps=STEPS):
    """The images of each step of `configure`, by the rule of the sampler."""
    labels = run_inputs.read_data(
        configs.from_config_dict(configure(root))
    ).train.labels
    draws = sampler.BatchSampler(labels, sampling="sqrt", batch_size=BATCH, seed=0)
    return [draws.draw(step).images for step in range(steps)]


@pytest.fixture(scope="module")
def poison(root):
    """An image that is drawn at three steps or more, not the first, and these steps."""
    drawn = images_of(root)
    for image in range(36):
        steps = [n for n, images in enumerate(drawn, 1) if image in images]
        if len(steps) >= 3 and steps[0] > 1:
            return image, steps
    raise AssertionError("no image is drawn so often")


@pytest.fixture(scope="module")
def healthy(root, tmp_path_factory):
    """A finished run."""
    workdir = tmp_path_factory.mktemp("healthy")
    image_world.run(configure(root), workdir)
    return workdir


@pytest.fixture
def poisoned(healthy, poison, tmp_path):
    """A run at the start of fine-tuning, one of whose kept features is a NaN: such is
    a file of features that another program has made."""
    workdir = tmp_path / "run"
    shutil.copytree(healthy, workdir)
    for rest in ("checkpoints", "artifact.json"):
        path = workdir / "finetune" / rest
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(workdir / "evaluate")
    path = workdir / "finetune" / "views" / "view_0.npy"
    features = np.load(path)
    features[poison[0], 3] = np.nan
    write_array(epath.Path(path), features)
    return workdir


def stopped(config, workdir):
    """The message of a run that stops at a step that is not finite."""
    with pytest.raises(NonFiniteLossError) as raised:
        image_world.run(config, workdir)
    return str(raised.value)


def look(arguments, capsys):
    """What replay prints as JSON; it leaves the workdir as it was."""
    [workdir] = (a.partition("=")[2] for a in arguments if a.startswith("--workdir="))

    def snapshot():
        files = [path for path in Path(workdir).rglob("*") if path.is_file()]
        return {os.fspath(p): (os.stat(p).st_mtime_ns, p.read_bytes()) for p in files}

    before = snapshot()
    capsys.readouterr()
    assert replay.main([*arguments, "--json"]) == 0
    assert snapshot() == before
    return json.loads(capsys.readouterr().out)


def command_in(message):
    """The arguments of the command that a message names."""
    found = re.search(r"`python -m vl_ltr_jax\.replay (.+?)`", message)
    return found[1].split()


def params(workdir, stage, step):
    """Those of one checkpoint, read as the next stage would."""
    newer = workdir.with_name(f"up_to_{step}")
    shutil.copytree(workdir / stage / "checkpoints" / str(step), newer / str(step))
    found = restore.load_params(newer)["params"]
    shutil.rmtree(newer)
    return found


def equal(ours, theirs):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, ours, theirs)))


def test_a_pretraining_that_diverges_is_found_by_the_command_it_names(
    root, tmp_path, capsys, jax_cache
):
    """Breaks if the batch of a step, its random numbers, or the state before it are
    not those of the run; if programs are added to the run's."""
    config = image_world.configure(root)
    image_world.change(
        config,
        pretrain__learning_rate=1e30,
        pretrain__warmup_epochs=0,
        log__checkpoint_every_steps=1,
    )
    workdir = tmp_path / "run"
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    programs.write_to("workdir", epath.Path(workdir))
    compilation_cache.reset_cache()
    message = stopped(config, workdir)
    assert message.startswith("at step 2 gradient_norm is nan, loss/contrastive is nan")
    saved = workdir / "pretrain" / "checkpoints"
    assert f"the last good checkpoint is step 1 in {saved}." in message
    kept = workdir / "pretrain" / "non_finite" / "step_2.json"
    assert f"Its batch is kept in {kept}: " in message
    incident = incidents.read(epath.Path(kept))
    inputs = run_inputs.read(configs.from_config_dict(config))
    drawn = sampler.BatchSampler(
        inputs.data.train.labels,
        sampling="sqrt",
        batch_size=BATCH,
        seed=0,
        sentence_labels=inputs.corpus.labels,
    ).draw(1)
    assert incident.images == drawn.images.tolist()
    assert incident.sentences == drawn.sentences.tolist()
    assert incident.metrics["loss/total"] == "nan"
    assert (incident.checkpoint, incident.skipped) == (1, [])

    shutil.rmtree(workdir / "teacher")  # is made again, and not written
    sheet = tmp_path / "sheets" / "wrong.png"
    seen = look([*command_in(message), f"--out={sheet}"], capsys)
    assert (seen["stage"], seen["step"], seen["started"]) == ("pretrain", 2, 1)
    assert seen["comes_back"] is True
    assert "equal to the run's to the last bit" in seen["verdict"]
    assert seen["not_finite"] == incident.not_finite
    assert seen["metrics"] == incident.metrics
    wrong = seen["state"]["wrong"]
    assert wrong["params/logit_scale"]["largest"] > 1e29
    assert seen["gradients"]["wrong"]["logit_scale"]["not_finite"] == 1
    assert seen["frozen"] == {"arrays": seen["frozen"]["arrays"], "wrong": {}}
    assert set(seen["rows"]["length of image embedding"]) == {"nan"}
    assert all(
        v > 1 for v in seen["rows"]["length of image embedding of the frozen CLIP"]
    )
    assert [one["index"] for one in seen["wrong_rows"]] == incident.images
    first = seen["wrong_rows"][0]
    assert first["not_finite"] == ["image embedding", "sentence embedding"]
    assert first["sentence"] == inputs.corpus.sentences[incident.sentences[0]]
    assert first["image"] == inputs.data.train.describe(incident.images[0])
    assert re.search(r"world_train\.txt:\d+", first["image"])
    [advice] = seen["advice"]
    assert "lower pretrain.learning_rate (it is 1e+30" in advice
    assert "huge before the step" in advice
    with Image.open(sheet) as picture:
        assert picture.size[0] > 3 * 2 * 112
    assert seen["finite_in_float32"] is None


def test_a_single_bad_row_is_named_with_its_file_and_line(
    root, poisoned, poison, capsys
):
    """Breaks if rows are told by their place on a device, or in the list of wrong
    ones; if views are made again, or written."""
    image, steps = poison
    message = stopped(configure(root), poisoned)
    assert f"at step {steps[0]} gradient_norm is nan, loss/total is nan" in message
    kept = incidents.read(
        incidents.path_of(epath.Path(poisoned) / "finetune", steps[0])
    )
    drawn = images_of(root)[steps[0] - 1]
    assert (kept.images, kept.sentences) == (drawn.tolist(), [])
    assert kept.checkpoint == steps[0] - 1
    seen = look(command_in(message), capsys)
    assert seen["comes_back"] is True and seen["started"] == steps[0] - 1
    assert [one["row"] for one in seen["wrong_rows"]] == np.flatnonzero(
        drawn == image
    ).tolist()
    data = run_inputs.read_data(configs.from_config_dict(configure(root))).train
    for one in seen["wrong_rows"]:
        assert one["index"] == image
        assert one["image"] == data.describe(image)
        assert one["class"] == list(image_world.COLOURS)[data.labels[image]]
        assert (one["not_finite"], one["sentence"]) == (["image features"], "")
    assert seen["state"]["wrong"] == {}
    assert seen["gradients"]["wrong"]["head/visual_fc/kernel"]["not_finite"] > 0
    assert f"move {poisoned / 'finetune' / 'views'} elsewhere" in seen["advice"][0]
    assert "--config.faults.non_finite=skip" in seen["advice"][1]
    # In words, and as a picture beside what is said of it.
    found, run = replay.replay(epath.Path(poisoned))
    said = diagnosis.to_text(found, run)
    assert f"finetune, step {steps[0]} of {STEPS}, made again from" in said
    assert f"rows that give what is not finite: {len(found.wrong)} of {BATCH}" in said
    assert f"{data.describe(image)}, {seen['wrong_rows'][0]['class']} (label" in said
    for told in seen["advice"]:
        assert f"  - {told}" in said
    [shown, *_] = replay.sheet_of(found, run)
    assert shown.where == data.describe(image) and "image features of" in shown.caption
    np.testing.assert_array_equal(
        shown.whole, run_inputs.eval_transform(run.config)(data.read(image))
    )
    view = poisoned / "finetune" / "views" / "view_0.npy"
    view.unlink()
    assert replay.main(command_in(message)) == 2
    assert f"{view} cannot be read" in capsys.readouterr().err
    assert not view.exists()


def test_skipped_steps_change_nothing_and_are_counted_over_restarts(
    root, poisoned, poison, capsys
):
    """Breaks if a skipped step moves parameters, if the count starts anew with the
    run, or if replay makes a step that the run has skipped."""
    _, steps = poison
    config = configure(root, faults__non_finite="skip", faults__max_skipped_steps=1)
    message = stopped(config, poisoned)
    assert f"at step {steps[1]} " in message
    assert "1 steps were skipped before (faults.max_skipped_steps=1)" in message
    said = capsys.readouterr().err
    assert f"step {steps[0]} is skipped: gradient_norm is nan" in said
    assert "(1 of at most 1). Its batch is kept in " in said
    before, after, next_one = (
        params(poisoned, "finetune", steps[0] + n) for n in (-1, 0, 1)
    )
    assert equal(before, after)
    assert not equal(after, next_one)

    config.faults.max_skipped_steps = 2
    message = stopped(config, poisoned)
    assert f"at step {steps[2]} " in message and "2 steps were skipped" in message
    assert "(2 of at most 2)" in capsys.readouterr().err
    seen = look([*command_in(message), "--from_start"], capsys)
    assert (seen["step"], seen["started"]) == (steps[2], 0)
    assert "equal to the run's to the last bit" in seen["verdict"]

    shutil.rmtree(poisoned / "finetune" / "checkpoints")
    assert replay.main([*command_in(message)]) == 2
    said = capsys.readouterr().err
    assert f"checkpoint {steps[2] - 1} of before step {steps[2]} is gone" in said
    assert f"--from_start makes all {steps[2] - 1} steps before it again" in said

    config.faults.max_skipped_steps = len(steps)
    image_world.run(config, poisoned)
    summary = json.loads((poisoned / "finetune" / "artifact.json").read_text())
    assert summary["skipped_steps"] == steps


def test_a_head_that_diverges_in_bfloat16_does_so_in_float32(
    root, healthy, tmp_path, capsys
):
    """The parameters are at fault, and no row: all features are finite."""
    config = configure(root, finetune__learning_rate=1e38)
    config.model.compute_dtype = "bfloat16"
    message = stopped(config, tmp_path / "run")
    assert message.startswith("at step 2 ")
    seen = look(command_in(message), capsys)
    assert seen["comes_back"] is True
    assert seen["wrong_rows"] == [] and seen["finite_in_float32"] is False
    assert seen["state"]["wrong"].keys() >= {"params/head/visual_fc/kernel"}
    assert seen["advice"][0].startswith("parameters were huge before the step already")


def test_the_second_stage_of_a_classifier_replays_too(root, tmp_path, capsys):
    config = configure(root)
    config.classifier.epochs = 1
    config.classifier.global_batch_size, config.classifier.feature_views = BATCH, 1
    config.classifier.learning_rate = 1e38
    config = systems.configure(config, "crt")
    config.finetune.epochs = 1
    config.finetune.train_image_tower, config.finetune.feature_views = False, 1
    message = stopped(config, tmp_path / "run")
    seen = look(command_in(message), capsys)
    assert (seen["stage"], seen["comes_back"]) == ("classifier", True)
    assert "lower classifier.learning_rate (it is 1e+38" in seen["advice"][0]


def test_a_step_that_was_fine_is_looked_at_all_the_same(healthy, tmp_path, capsys):
    """The values are the run's: breaks if another step is made."""
    arguments = [f"--workdir={healthy}", "--step=5"]
    seen = look(arguments, capsys)
    assert (seen["stage"], seen["step"], seen["started"]) == ("finetune", 5, 4)
    assert (seen["comes_back"], seen["not_finite"]) == (None, [])
    assert (seen["verdict"], seen["advice"]) == ("All of it is finite.", [])
    assert seen["metrics"]["learning_rate"] < 1e-4
    assert len(seen["rows"]["largest of visual logits"]) == BATCH
    out = tmp_path / "sheet.png"
    assert replay.main([*arguments, "--from_start", f"--out={out}"]) == 0
    said = capsys.readouterr()
    assert "made again from the start" in said.out
    for name, value in seen["metrics"].items():
        assert f"  {name:<26}{value:.6g}\n" in said.out
    assert "no row is wrong by itself" in said.err and not out.exists()


def test_a_fault_that_does_not_come_back_is_said_to(healthy, tmp_path, capsys):
    """Such as one of the hardware: here the run's note is what is wrong."""
    workdir = tmp_path / "run"
    shutil.copytree(healthy, workdir)
    path = incidents.path_of(epath.Path(workdir) / "finetune", 4)
    values = {"loss/total": "nan"}
    told = incidents.Incident(4, ["loss/total"], values, [], [], 3, [], "4 x TPU v4")
    told.write(path)
    seen = look([f"--workdir={workdir}"], capsys)
    assert seen["comes_back"] is False
    assert "does not come back: the run was on 4 x TPU v4, this is" in seen["verdict"]
    assert seen["advice"][0].startswith("start the run's command again")
    path.write_text("{")
    assert replay.main([f"--workdir={workdir}"]) == 2
    assert "step_4.json cannot be read" in capsys.readouterr().err


def test_what_to_try_is_chosen_by_what_was_found(root, healthy):
    """Cases that are dear to make, of a look that is at hand."""
    config = configs.from_config_dict(configure(root))
    workdir = epath.Path(healthy)
    run = Run(
        config, workdir, run_inputs.read(config), meshes.make_mesh(), writes=False
    )
    seen, _ = replay.replay(workdir, step=2)
    scaled = {"loss/total": np.nan, "logit_scale": 100 * (1 - 1e-6)}
    bad = dataclasses.replace(seen, metrics=scaled)
    assert "at its limit, pretrain.max_logit_scale=100" in diagnosis.advice(bad, run)[0]
    exact = dataclasses.replace(
        seen, metrics={"loss/total": np.inf}, finite_in_float32=True
    )
    assert "compute_dtype=float32" in diagnosis.advice(exact, run)[0]
    damaged = dataclasses.replace(
        exact, finite_in_float32=False, frozen={"anchors": ArraySize(1, 9, 0.0)}
    )
    assert "what an earlier stage left" in diagnosis.advice(damaged, run)[0]
    earlier = dataclasses.replace(exact, asked=9)
    assert "Step 2, before the one asked for" in diagnosis.verdict(earlier)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workdir=nowhere"], "is nowhere the --workdir of a run?"),
        ([], "kept no step that was not finite. Name any step by --stage"),
        (["--stage=pretrain"], "--stage=pretrain: this run trains finetune"),
        (["--step=13"], "--step=13: finetune has steps 1 to 12"),
        (["--step=0"], "--step=0: finetune has steps 1 to 12"),
        (["--step=5", "--out=sheet.doc"], "a picture file is needed"),
    ],
)
def test_a_mistake_is_told_in_a_line_and_is_exit_code_2(
    healthy, capsys, arguments, words
):
    assert replay.main([f"--workdir={healthy}", *arguments]) == 2
    said = capsys.readouterr()
    assert words in said.err and said.out == ""
