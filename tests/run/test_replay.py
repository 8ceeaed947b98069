"""Steps that are not finite: recorded, skipped, and repeated by replay."""

import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from jax.experimental.compilation_cache import compilation_cache
from PIL import Image

from vl_ltr_jax.checkpoint import restore
from vl_ltr_jax.commands import replay
from vl_ltr_jax.config import build as configs
from vl_ltr_jax.data.batches import sampler
from vl_ltr_jax.run import inputs as run_inputs
from vl_ltr_jax.run.replay import table
from vl_ltr_jax.runtime import compilation_cache as programs
from vl_ltr_jax.storage.artifact import write_array
from vl_ltr_jax.train import incidents
from vl_ltr_jax.train.non_finite import NonFiniteLossError
from worlds import image_world

STEPS, BATCH = 12, 8


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return image_world.write(tmp_path_factory.mktemp("data") / "world")


def configure(root, **changes):
    """Returns an FC on cached features of a frozen tower: steps of milliseconds."""
    config = image_world.configure(root)
    config.pretrain.epochs = 0
    config.finetune.feature_views, config.finetune.head = 1, "fc"
    config.finetune.warmup_epochs = 0
    config.evaluate.knn = False
    config.evaluate.zero_shot_text = "sentences"
    config.log.checkpoint_every_steps, config.log.keep_checkpoints = 1, STEPS
    return image_world.change(config, **changes)


def images_of(root):
    """Returns the images of each step of `configure`, by the rule of the sampler."""
    config = configs.from_config_dict(configure(root))
    labels = run_inputs.read_data(config).train.labels
    draws = sampler.BatchSampler(labels, sampling="sqrt", batch_size=BATCH, seed=0)
    return [draws.draw(step).images for step in range(STEPS)]


@pytest.fixture(scope="module")
def poison(root):
    """An image of three steps or more, not the first, and these steps."""
    images = images_of(root)
    for image in range(36):
        steps = [n for n, drawn in enumerate(images, 1) if image in drawn]
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
    """A run at the start of fine-tuning with a NaN among its cached features."""
    workdir = tmp_path / "run"
    ignore = shutil.ignore_patterns("evaluate", "checkpoints", "artifact.json")
    shutil.copytree(healthy, workdir, ignore=ignore)
    embed = healthy / "embed" / "artifact.json"
    shutil.copy(embed, workdir / "embed" / "artifact.json")
    path = workdir / "finetune" / "views" / "view_0.npy"
    features = np.load(path)
    features[poison[0], 3] = np.nan
    write_array(epath.Path(path), features)
    return workdir


def stop(config, workdir, explicit=()):
    """Returns the message of a run that stops, and its arguments for replay."""
    with pytest.raises(NonFiniteLossError) as raised:
        image_world.run(config, workdir, explicit)
    message = str(raised.value)
    command = re.search(r"`python -m vl_ltr_jax\.replay (.+?)`", message)
    return message, command[1].split()


def look(arguments, capsys):
    """Returns the JSON of replay, which must not change the workdir."""
    [workdir] = (a.partition("=")[2] for a in arguments if a.startswith("--workdir="))

    def snapshot():
        files = [path for path in Path(workdir).rglob("*") if path.is_file()]
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = snapshot()
    capsys.readouterr()
    assert replay.main([*arguments, "--json"]) == 0
    assert snapshot() == before
    return json.loads(capsys.readouterr().out)


def faulty(sizes):
    """Returns the paths of arrays that are not finite."""
    return {path for path, size in sizes.items() if size["not_finite"]}


def head_after(step, workdir, scratch):
    """Returns the leaves of one checkpoint, as the next stage would read them."""
    source = workdir / "finetune" / "checkpoints" / str(step)
    shutil.copytree(source, scratch / f"up_to_{step}" / str(step))
    return jax.tree.leaves(restore.load_params(scratch / f"up_to_{step}")["params"])


def test_a_diverging_pretraining_is_repeated_by_the_command_in_its_message(
    root, tmp_path, capsys, jax_cache
):
    """Breaks if the batch of a step, its random numbers, or the state before it are
    not those of the run; if programs are added to the run's."""
    config = image_world.change(
        image_world.configure(root),
        pretrain__learning_rate=1e30,
        pretrain__warmup_epochs=0,
        log__checkpoint_every_steps=1,
    )
    workdir = tmp_path / "run"
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    programs.use(workdir / programs.NAME)
    compilation_cache.reset_cache()
    message, arguments = stop(config, workdir)
    assert message.startswith("at step 2 gradient_norm is nan, loss/contrastive is nan")
    path = workdir / "pretrain" / "non_finite" / "step_2.json"
    assert f"in {path}: " in message
    incident = incidents.read(epath.Path(path))
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

    shutil.rmtree(workdir / "teacher")  # replay embeds again, and does not write
    sheet = tmp_path / "sheets" / "wrong.png"
    repeat = look([*arguments, f"--out={sheet}"], capsys)
    assert (repeat["stage"], repeat["step"], repeat["started"]) == ("pretrain", 2, 1)
    assert repeat["comes_back"] is True and repeat["equal"] is True
    assert repeat["not_finite"] == incident.not_finite
    assert repeat["metrics"] == incident.metrics
    assert repeat["state"]["params/logit_scale"]["largest"] > 1e29
    assert repeat["gradients"]["logit_scale"]["not_finite"] == 1
    assert repeat["frozen"] and not faulty(repeat["frozen"])
    assert set(repeat["rows"]["norm of image embedding"]) == {"nan"}
    assert [row["index"] for row in repeat["wrong_rows"]] == incident.images
    first = repeat["wrong_rows"][0]
    assert first["not_finite"] == ["image embedding", "sentence embedding"]
    assert first["sentence"] == inputs.corpus.sentences[incident.sentences[0]]
    assert first["image"] == inputs.data.train.describe(incident.images[0])
    assert re.search(r"world_train\.txt:\d+", first["image"])
    with Image.open(sheet) as picture:
        assert picture.size[0] > 3 * 2 * 112


def test_a_faulty_row_is_named_with_its_file_and_line(root, poisoned, poison, capsys):
    """Breaks if rows have their index on a device, or among the faulty ones; if views
    are embedded again, or written."""
    image, steps = poison
    message, arguments = stop(configure(root), poisoned)
    assert f"at step {steps[0]} gradient_norm is nan, loss/total is nan" in message
    directory = epath.Path(poisoned) / "finetune"
    incident = incidents.read(incidents.path_of(directory, steps[0]))
    drawn = images_of(root)[steps[0] - 1]
    assert (incident.images, incident.sentences) == (drawn.tolist(), [])
    assert incident.checkpoint == steps[0] - 1
    repeat = look(arguments, capsys)
    assert repeat["comes_back"] is True and repeat["started"] == steps[0] - 1
    rows = [row["row"] for row in repeat["wrong_rows"]]
    assert rows == np.flatnonzero(drawn == image).tolist()
    data = run_inputs.read_data(configs.from_config_dict(configure(root))).train
    for row in repeat["wrong_rows"]:
        assert row["index"] == image
        assert row["image"] == data.describe(image)
        assert row["class"] == list(image_world.COLOURS)[data.labels[image]]
        assert (row["not_finite"], row["sentence"]) == (["image features"], "")
    assert not faulty(repeat["state"])
    assert "head/visual_fc/kernel" in faulty(repeat["gradients"])
    step, run = replay.replay(epath.Path(poisoned))
    text = table.to_text(step, run)
    assert data.describe(image) in text and "head/visual_fc/kernel" in text
    [example, *_] = replay.sheet_of(step, run)
    assert example.where == data.describe(image)
    picture = run_inputs.eval_transform(run.config)(data.read(image))
    np.testing.assert_array_equal(example.eval_picture, picture)
    view = poisoned / "finetune" / "views" / "view_0.npy"
    view.unlink()
    assert replay.main(arguments) == 2
    assert str(view) in capsys.readouterr().err
    assert not view.exists()


def test_skipped_steps_change_nothing_and_are_counted_over_restarts(
    root, poisoned, poison, tmp_path, capsys
):
    """Breaks if a skipped step moves parameters, or each start counts from zero.
    Breaks if replay makes a step that the run has skipped."""
    _, steps = poison
    config = configure(root, faults__non_finite="skip", faults__max_skipped_steps=1)
    message, _ = stop(config, poisoned)
    assert f"at step {steps[1]} " in message and "max_skipped_steps=1" in message
    warning = capsys.readouterr().err
    assert f"step {steps[0]} is skipped: gradient_norm is nan" in warning
    before, after, later = (
        head_after(steps[0] + n, poisoned, tmp_path) for n in (-1, 0, 1)
    )
    assert all(map(np.array_equal, before, after))
    assert not all(map(np.array_equal, after, later))

    config.faults.max_skipped_steps = 2
    message, arguments = stop(config, poisoned)
    assert f"at step {steps[2]} " in message
    repeat = look([*arguments, "--from_start"], capsys)
    assert (repeat["step"], repeat["started"]) == (steps[2], 0)
    assert repeat["equal"] is True

    shutil.rmtree(poisoned / "finetune" / "checkpoints")
    assert replay.main(arguments) == 2
    error = capsys.readouterr().err
    assert f"checkpoint {steps[2] - 1} " in error and "--from_start" in error

    config.faults.max_skipped_steps = len(steps)
    image_world.run(config, poisoned)
    summary = json.loads((poisoned / "finetune" / "artifact.json").read_text())
    assert summary["skipped_steps"] == steps


def test_a_diverging_classifier_has_no_faulty_row(root, tmp_path, capsys):
    """The parameters are at fault: all features are finite."""
    config = configure(root, method="crt")
    options = config.classifier
    options.epochs, options.global_batch_size, options.feature_views = 1, BATCH, 1
    options.learning_rate = 1e38
    config.finetune.epochs = 1
    config.finetune.train_image_tower, config.finetune.feature_views = False, 1
    config.model.compute_dtype = "bfloat16"
    explicit = ["finetune.train_image_tower", "finetune.feature_views"]
    message, arguments = stop(config, tmp_path / "run", explicit)
    assert message.startswith("at step 2 ")
    repeat = look(arguments, capsys)
    assert (repeat["stage"], repeat["comes_back"]) == ("classifier", True)
    assert repeat["wrong_rows"] == []
    assert repeat["state"]["params/head/visual_fc/kernel"]["largest"] > 1e30


def test_a_finite_step_is_repeated_on_request(healthy, capsys):
    """The values are the run's: breaks if another step is made."""
    arguments = [f"--workdir={healthy}", "--step=5"]
    repeat = look(arguments, capsys)
    assert (repeat["stage"], repeat["step"], repeat["started"]) == ("finetune", 5, 4)
    assert (repeat["comes_back"], repeat["not_finite"]) == (None, [])
    assert repeat["metrics"]["learning_rate"] < 1e-4
    assert len(repeat["rows"]["largest of visual logits"]) == BATCH
    assert replay.main([*arguments, "--from_start"]) == 0
    text = capsys.readouterr().out
    for name, value in repeat["metrics"].items():
        assert re.search(rf"{name} +{value:.6g}\n", text)


def test_a_fault_that_does_not_return_and_a_damaged_record(healthy, tmp_path, capsys):
    """The run's record is at fault here, as it is for a fault of the hardware."""
    workdir = tmp_path / "run"
    shutil.copytree(healthy, workdir)
    path = incidents.path_of(epath.Path(workdir) / "finetune", 4)
    losses = {"loss/total": "nan"}
    incidents.Incident(4, ["loss/total"], losses, [], [], 3, devices="4 x v4").write(
        path
    )
    repeat = look([f"--workdir={workdir}"], capsys)
    assert repeat["comes_back"] is False and repeat["equal"] is False
    assert repeat["devices_of_the_run"] == "4 x v4"
    path.write_text("{")
    assert replay.main([f"--workdir={workdir}"]) == 2
    assert "step_4.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--workdir=nowhere"], "nowhere"),
        ([], "--stage"),
        (["--stage=pretrain"], "--stage=pretrain"),
        (["--step=13"], "--step=13"),
        (["--step=5", "--out=sheet.doc"], "sheet.doc"),
    ],
)
def test_a_wrong_argument_is_exit_code_2(healthy, capsys, arguments, word):
    assert replay.main([f"--workdir={healthy}", *arguments]) == 2
    streams = capsys.readouterr()
    assert word in streams.err and streams.out == ""
