"""Every mistake with the user's files is named: which file, which line, what to do."""

import gc
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image
from safetensors.numpy import load_file, save_file

from vl_ltr_jax.commands import flags, train
from vl_ltr_jax.config import build as configs
from vl_ltr_jax.data.images.decode import ImageReadError, read_image
from vl_ltr_jax.data.text.tokenizer import Tokenizer
from vl_ltr_jax.evaluate import split
from vl_ltr_jax.models.port import clip_files
from vl_ltr_jax.run import initial
from vl_ltr_jax.run import inputs as run_inputs
from vl_ltr_jax.run.depends import artifact
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.stages import pipeline
from vl_ltr_jax.storage.artifact import ArtifactError
from worlds import image_world


@pytest.fixture
def world(tmp_path):
    return image_world.write(tmp_path / "world")


def read(root, **init):
    config = image_world.configure(root)
    for key, value in init.items():
        config.init[key] = value
    return run_inputs.read(configs.from_config_dict(config))


def replace_line(path, number, text):
    lines = path.read_text().splitlines()
    lines[number - 1] = text
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    "row, words",
    [
        ("images/crimson/gone.jpg 0", ["gone.jpg"]),
        ("images/crimson/train_0.jpg 3", ["3"]),
        ("images/crimson/train_0.jpg -1", ["-1"]),
        ("images/crimson/train_0.jpg", []),
        ("images/crimson/train_0.jpg one", ["one"]),
        ("../../../etc/passwd 0", ["passwd"]),
    ],
)
def test_a_bad_row_of_a_list_is_named_by_file_and_line(world, row, words):
    replace_line(world / "world_train.txt", 5, row)
    with pytest.raises(ValueError) as raised:
        read(world)
    for word in ["world_train.txt:5", *words]:
        assert word in str(raised.value)


def test_a_truncated_jpeg_is_named_with_its_list_and_line(world):
    image = world / "images" / "azure" / "train_2.jpg"
    image.write_bytes(image.read_bytes()[:200])
    data = read(world).data
    with pytest.raises(ImageReadError) as raised:
        data.train.read(24 + 2)
    assert "azure/train_2.jpg" in str(raised.value)
    assert "world_train.txt:27" in str(raised.value)


def test_a_truncated_jpeg_stops_training_by_the_same_name(world, tmp_path):
    for image in (world / "images").rglob("train_*.jpg"):
        image.write_bytes(image.read_bytes()[:200])
    config = configs.from_config_dict(image_world.configure(world))
    workdir, data = epath.Path(tmp_path / "run"), run_inputs.read(config)
    pipeline.check(config, workdir, data)
    with pytest.raises(ImageReadError, match=r"world_train.txt:\d+"):
        pipeline.run(config, workdir, data)


def test_a_missing_list_is_named(world):
    (world / "world_val.txt").unlink()
    with pytest.raises(ValueError, match="world_val.txt"):
        read(world)


def test_a_class_without_text_is_named(world):
    (world / "wiki" / "desc_1.txt").unlink()
    with pytest.raises(ValueError, match="desc_1.txt"):
        read(world)


def test_duplicate_label_names_are_named_by_line(world):
    replace_line(world / "labels.txt", 3, "crimson 2")
    with pytest.raises(ValueError) as raised:
        read(world)
    assert "labels.txt:3" in str(raised.value) and "crimson" in str(raised.value)


@pytest.fixture
def clip_directory(tmp_path):
    source, copy = initial.model_source("tiny_clip"), tmp_path / "clip"
    copy.mkdir()
    for path in source.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def test_a_missing_tensor_is_named(world, clip_directory):
    path = clip_directory / "model.safetensors"
    tensors = load_file(path)
    tensors.pop("text_projection.weight")
    tensors["text_projection.wait"] = tensors["visual_projection.weight"]
    tensors["logit_scale"] = tensors["logit_scale"].reshape(1)
    save_file(tensors, path)
    with pytest.raises(ValueError) as raised:
        read(world, clip=str(clip_directory))
    for word in ("text_projection.weight", "text_projection.wait", "logit_scale"):
        assert word in str(raised.value)


def test_cut_off_weights_are_named(world, clip_directory):
    path = clip_directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="model.safetensors"):
        read(world, clip=str(clip_directory))


def test_a_directory_without_tokenizer_files_is_named(world, clip_directory):
    for name in ("vocab.json", "merges.txt", "tokenizer.json"):
        (clip_directory / name).unlink(missing_ok=True)
    with pytest.raises(ValueError, match=str(clip_directory)):
        read(world, clip=str(clip_directory))


def test_another_models_backbone_is_a_contradiction(world):
    config = image_world.configure(world)
    config.model.backbone = "ViT-B/16"
    config.model.image_size = 32
    with pytest.raises(initial.InputError, match="model.backbone='ViT-B/16'"):
        run_inputs.read(configs.from_config_dict(config))


def test_batches_that_do_not_divide_stop_before_any_array(world, tmp_path):
    config = image_world.configure(world)
    config.pretrain.global_batch_size = 12  # the tests have 8 devices
    checked = configs.from_config_dict(config)
    gc.collect()  # of what other tests have left
    alive = len(jax.live_arrays())
    with pytest.raises(configs.ConfigError, match="pretrain.global_batch_size=12"):
        pipeline.run(checked, epath.Path(tmp_path / "run"), run_inputs.read(checked))
    assert len(jax.live_arrays()) <= alive


def test_a_misspelt_flag_ends_with_one_message(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["main", "--config.pretrain.epoch=3"])
    with pytest.raises(SystemExit) as ended:
        flags.start(train.main)
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert "did you mean --config.pretrain.epochs?" in message
    assert "Traceback" not in message


@pytest.mark.parametrize(
    "value, words", [(float("nan"), "not finite"), (3, "not of a floating dtype")]
)
def test_damaged_weights_are_named(clip_directory, value, words):
    tensors = load_file(clip_directory / "model.safetensors")
    tensors["logit_scale"] = np.array(value)
    save_file(tensors, clip_directory / "model.safetensors")
    with pytest.raises(ValueError, match=f"logit_scale .*{words}"):
        clip_files.load_clip(clip_directory)


def test_a_tokenizer_that_was_cut_off_is_named(clip_directory):
    merges = (clip_directory / "merges.txt").read_text().splitlines()
    (clip_directory / "merges.txt").write_text("\n".join(merges[:-7]))
    with pytest.raises(ValueError, match="there are only .* merges; was the list cut"):
        Tokenizer.from_directory(clip_directory)


@pytest.mark.parametrize(
    "file, content, words",
    [
        ("settings.json", None, "settings.json cannot be read"),
        ("settings.json", "[]", "holds a list, not an object"),
        ("artifact.json", "{}", "has no seconds and no versions"),
        ("artifact.json", '{"seco', "artifact.json cannot be read"),
    ],
)
def test_a_damaged_stage_is_named(world, tmp_path, file, content, words):
    config = configs.from_config_dict(image_world.configure(world))
    workdir, data = epath.Path(tmp_path / "run"), run_inputs.read(config)
    made = artifact(config, workdir, "pretrain", data)
    made.begin()
    made.finish({"seconds": 1.0, "versions": {}})
    pipeline.check(config, workdir, data)
    (made.directory / file).unlink()
    if content is not None:
        (made.directory / file).write_text(content)
    with pytest.raises(ArtifactError, match=words):
        made.check()
        made.summary()


@pytest.mark.parametrize(
    "text, words",
    [
        ("def get_config(:\n", ["SyntaxError", "given.py:1"]),
        ("import nosuchmodule\n", ["nosuchmodule", "given.py:1"]),
        ("x = 1\n", ["get_config"]),
        (
            "from vl_ltr_jax.config import default_config\n\n"
            "def get_config():\n"
            "    config = default_config()\n"
            "    config.pretrian.epochs = 3\n",
            ["pretrian", "given.py:5"],
        ),
        ("def get_config():\n    return {'seed': 3}\n", ["dict, not a ConfigDict"]),
    ],
)
def test_a_broken_configuration_file_is_one_message(tmp_path, text, words):
    (tmp_path / "given.py").write_text(text)
    status, message = start([f"--config={tmp_path / 'given.py'}", "--workdir=unused"])
    assert status == 2
    assert message.startswith("error: ") and "Traceback" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["config.seed=3"], "'config.seed=3' is no flag"),
        (["--config.seed=x"], "seed"),
        (["--config.anchors.num_anchors=3.5"], "3.5"),
    ],
)
def test_stray_arguments_are_refused(arguments, words):
    status, message = start(
        ["--config=configs/shapes_lt.py", "--workdir=unused", *arguments]
    )
    assert status == 2 and words in message and "Traceback" not in message


def start(arguments):
    """Exit status and messages of the main job with these flags, in its own process."""
    done = subprocess.run(
        [sys.executable, "-m", "vl_ltr_jax.main", *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stderr


def test_a_directory_in_place_of_an_image_is_named(world):
    replace_line(world / "world_train.txt", 5, "images/crimson 0")
    with pytest.raises(ValueError, match="world_train.txt:5: no image"):
        read(world)
    (world / "images" / "crimson" / "gone.jpg").symlink_to("nowhere")
    replace_line(world / "world_train.txt", 5, "images/crimson/gone.jpg 0")
    with pytest.raises(ValueError, match="world_train.txt:5: no image"):
        read(world)


def test_16_bit_pictures_keep_their_range(tmp_path):
    """Pillow alone makes all of them white."""
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    pixels = np.asarray(read_image(tmp_path / "deep.png", "deep.png"))
    np.testing.assert_array_equal(pixels[:, :, 0], values >> 8)
    Image.fromarray(values.astype(np.float32)).save(tmp_path / "deep.tiff")
    with pytest.raises(ImageReadError, match="32 bits, whose range is not known"):
        read_image(tmp_path / "deep.tiff", "deep.tiff")


def test_a_stage_made_anew_under_a_finished_one_is_refused(world, tmp_path):
    config = configs.from_config_dict(image_world.configure(world))
    workdir, data = epath.Path(tmp_path / "run"), run_inputs.read(config)
    for stage in ("pretrain", "embed"):
        made = artifact(config, workdir, stage, data)
        made.begin()
        made.finish({"seconds": 1.0, "versions": {}})
    pipeline.check(config, workdir, data)
    (workdir / "pretrain").rmtree()
    with pytest.raises(ArtifactError, match="'embed' .* is finished, but 'pretrain'"):
        pipeline.check(config, workdir, data)


def test_scores_that_are_not_numbers_are_no_result():
    def scores(frozen, images):
        heads = {"lgr": jnp.full((8, 3), jnp.nan).at[:4].set(0.0)}
        return split.Scored(heads, jnp.zeros((8, 2)))

    batch = {
        "image": np.zeros((8, 4, 4, 3), np.uint8),
        "label": np.zeros(8, np.int32),
        "mask": np.arange(8) < 7,
    }
    count = split.make_count(scores, 3)
    with pytest.raises(split.NonFiniteScoreError, match="3 of 7 images .* head 'lgr'"):
        split.evaluate_split(count, {}, [batch], meshes.make_mesh())
