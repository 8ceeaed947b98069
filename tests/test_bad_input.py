"""Every mistake with the user's files is named: which file, which line, what to do."""

import image_world
import jax
import numpy as np
import pytest
from etils import epath
from safetensors.numpy import load_file, save_file

from vl_ltr_jax import config as configs
from vl_ltr_jax import inputs, main, stages
from vl_ltr_jax.artifacts import ArtifactError
from vl_ltr_jax.data.images import ImageReadError
from vl_ltr_jax.data.tokenizer import Tokenizer
from vl_ltr_jax.models import clip_files
from vl_ltr_jax.run import artifact


@pytest.fixture
def world(tmp_path):
    return image_world.write(tmp_path / "world")


def read(root, **init):
    config = image_world.configure(root)
    for key, value in init.items():
        config.init[key] = value
    return inputs.read(configs.from_config_dict(config))


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
    workdir, data = epath.Path(tmp_path / "run"), inputs.read(config)
    stages.check(config, workdir, data)
    with pytest.raises(ImageReadError, match=r"world_train.txt:\d+"):
        stages.run(config, workdir, data)


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
    source, copy = inputs.model_source("tiny_clip"), tmp_path / "clip"
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
    with pytest.raises(inputs.InputError, match="model.backbone='ViT-B/16'"):
        inputs.read(configs.from_config_dict(config))


def test_batches_that_do_not_divide_stop_before_any_array(world, tmp_path):
    config = image_world.configure(world)
    config.pretrain.global_batch_size = 12  # the tests have 8 devices
    checked = configs.from_config_dict(config)
    alive = len(jax.live_arrays())
    with pytest.raises(configs.ConfigError, match="pretrain.global_batch_size=12"):
        stages.run(checked, epath.Path(tmp_path / "run"), inputs.read(checked))
    assert len(jax.live_arrays()) == alive


def test_a_misspelt_flag_ends_with_one_message(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["main", "--config.pretrain.epoch=3"])
    with pytest.raises(SystemExit) as ended:
        main.start(main.main)
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
def test_a_damaged_stage_says_what_to_delete(world, tmp_path, file, content, words):
    config = configs.from_config_dict(image_world.configure(world))
    workdir, data = epath.Path(tmp_path / "run"), inputs.read(config)
    made = artifact(config, workdir, "pretrain", data)
    made.begin()
    made.finish({"seconds": 1.0, "versions": {}})
    stages.check(config, workdir, data)
    (made.directory / file).unlink()
    if content is not None:
        (made.directory / file).write_text(content)
    with pytest.raises(ArtifactError, match=words):
        made.check()
        made.summary()
