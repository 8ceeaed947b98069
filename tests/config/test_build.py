import dataclasses
import importlib.util
from pathlib import Path

import pytest

from vl_ltr_jax.config import build as configs
from vl_ltr_jax.config import flags, settings
from worlds import image_world

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))


def build(**changes):
    config = configs.default_config()
    config.data.source = "shapes"
    config.data.name = "x"
    config.init.clip = "tiny_clip"
    return configs.from_config_dict(image_world.change(config, **changes))


def test_defaults_survive_the_round_trip():
    assert build().pretrain == settings.Pretrain()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_file_builds_but_for_missing_directories(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    # The benchmarks' images and weights are not here; everything else must hold.
    config.data.root = str(Path(__file__).parent)
    config.data.name = config.data.name or "x"
    config.init.clip = config.init.clip and "tiny_clip"
    configs.from_config_dict(config)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"pretrain__lerning_rate": 1.0}, ["pretrain.lerning_rate", "learning_rate"]),
        ({"pretrain__epochs": "3"}, ["pretrain.epochs", "int expected", "str"]),
        ({"pretrain__epochs": True}, ["pretrain.epochs", "bool"]),
        ({"pretrain__distillation": "ful"}, ["distillation", "'full'"]),
        ({"model__backbone": "ViT-B/61"}, ["model.backbone", "ViT-B/16"]),
        ({"model__image_size": 225}, ["image_size=225", "16"]),
        ({"anchors__num_anchors": 0}, ["anchors.num_anchors", "at least 1"]),
        ({"anchors__num_anchors": 10**12}, ["anchors.num_anchors", "too large"]),
        ({"pretrain__learning_rate": float("inf")}, ["learning_rate", "too large"]),
        ({"finetune__text_learning_rate": float("nan")}, ["text_learning_rate: nan"]),
        ({"init__clip": "nowhere"}, ["init.clip", "'nowhere'", "hf download"]),
        ({"init__clip": ""}, ["init.tokenizer"]),
        ({"data__source": "image_list"}, ["data.root"]),
        ({"data__name": ""}, ["data.name"]),
        ({"data__prompts": "none"}, ["evaluate.zero_shot_text='prompts'"]),
        ({"pretrain__distillation_temperature": 2.0}, ["'kl' alone"]),
        ({"mesh__fsdp": "model"}, ["mesh.model=1 splits nothing"]),
        ({"model__remat": "dot"}, ["'dot'", "did you mean 'dots'"]),
        ({"data__layout": "inat18"}, ["data.layout"]),
        ({"pretrain__warmup_epochs": 50}, ["pretrain.warmup_epochs"]),
        ({"pretrain__label_smoothing": float("nan")}, ["label_smoothing"]),
        ({"data": 3}, ["data: a section"]),
        ({"sed": 1}, ["sed: unknown key", "seed"]),
    ],
)
def test_faults_are_named(changes, words):
    with pytest.raises(configs.ConfigError) as raised:
        build(**changes)
    for word in words:
        assert word in str(raised.value)


def test_all_faults_come_in_one_message():
    with pytest.raises(configs.ConfigError) as raised:
        build(anchors__num_anchors=0, log__every_steps=0)
    assert "num_anchors" in str(raised.value) and "every_steps" in str(raised.value)


def test_batches_must_divide_over_devices_and_chunks():
    config = build()
    configs.check_devices(config, 8)
    odd = dataclasses.replace(
        config, pretrain=dataclasses.replace(config.pretrain, global_batch_size=30)
    )
    with pytest.raises(configs.ConfigError, match="30 is not divisible.*24 and 32"):
        configs.check_devices(odd, 8)
    chunked = dataclasses.replace(
        config, mesh=settings.Mesh(accumulation_steps=64, model=2)
    )
    with pytest.raises(configs.ConfigError) as raised:
        configs.check_devices(chunked, 32)
    message = str(raised.value)
    assert "the 32 devices times mesh.accumulation_steps=64" in message
    assert "1024 is not divisible" in message and "2048" in message
    assert "evaluate" not in message  # nothing is accumulated there
    bad_mesh = dataclasses.replace(config, mesh=settings.Mesh(data=3, model=2))
    with pytest.raises(configs.ConfigError, match="8 devices"):
        configs.check_devices(bad_mesh, 8)


def test_flag_names_are_checked_before_parsing():
    file = str(CONFIGS[0])
    flags.check_flag_names([f"--config={file}", "--config.seed=3", "--workdir=w"])
    flags.check_flag_names(["--config", file, "--config.seed", "3"])
    with pytest.raises(configs.ConfigError, match="--config=gone.py: there is no"):
        flags.check_flag_names(["--config=gone.py:x=1"])
    with pytest.raises(configs.ConfigError, match=r"--config.pretrain.epochs\?"):
        flags.check_flag_names(["--config.pretrain.epoch=3"])
    with pytest.raises(configs.ConfigError, match="b=1: a run has one configuration"):
        flags.check_flag_names([f"--config={file}", "--config", f"{file}:b=1"])
    flags.check_flag_names(["--workdir", "config"])
    flags.check_flag_names([])


def test_arguments_of_a_configuration_file():
    backbone = ("ViT-B/16", "RN50")
    for text, value in (("backbone=RN50", "RN50"), ("", "ViT-B/16")):
        assert flags.arguments(text, backbone=backbone) == {"backbone": value}
    with pytest.raises(configs.ConfigError, match="did you mean 'backbone'"):
        flags.arguments("bakbone=RN50", backbone=backbone)
    with pytest.raises(configs.ConfigError, match="did you mean 'RN50'"):
        flags.arguments("backbone=RN5", backbone=backbone)
