"""Checked configurations: one message names every fault by its key."""

import dataclasses
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config import keys_table
from vl_ltr_jax import systems
from vl_ltr_jax.config import build as configs
from vl_ltr_jax.config import settings
from vl_ltr_jax.run import depends
from worlds import image_world
from worlds.file_damage import VALUES, examples
from worlds.paper_world import ROOT, get_config_of

CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


def sound():
    config = configs.default_config()
    config.data.source, config.data.name = "shapes", "x"
    config.init.clip = "tiny_clip"
    return config


def build(explicit=(), **changes):
    return configs.from_config_dict(image_world.change(sound(), **changes), explicit)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_file_builds(name):
    config = get_config_of(name)("")
    # The benchmarks' images and weights are not here.
    config.data.root = str(Path(__file__).parent)
    config.data.name = config.data.name or "x"
    config.init.clip = config.init.clip and "tiny_clip"
    configs.from_config_dict(config)


@pytest.mark.parametrize(
    "changes, names",
    [
        ({"pretrain__lerning_rate": 1.0}, ["pretrain.lerning_rate", "learning_rate"]),
        ({"pretrain__epochs": True}, ["pretrain.epochs"]),
        ({"pretrain__distillation": "ful"}, ["pretrain.distillation", "'full'"]),
        ({"model__backbone": "ViT-B/61"}, ["model.backbone", "ViT-B/16"]),
        ({"model__image_size": 225}, ["model.image_size=225"]),
        ({"method": "ctr"}, ["method='ctr'", "'crt'"]),
        ({"init__clip": "nowhere"}, ["init.clip='nowhere'"]),
        ({"init__clip": ""}, ["init.tokenizer"]),
        ({"data__source": "image_list"}, ["data.root"]),
        ({"data__name": ""}, ["data.name"]),
        ({"data__prompts": "none"}, ["evaluate.zero_shot_text='prompts'"]),
        ({"pretrain__distillation_temperature": 2.0}, ["distillation_temperature=2"]),
        (
            {"mesh__fsdp": "model", "mesh__model": 1},
            ["mesh.fsdp", "mesh.model=1"],
        ),
        ({"model__remat": "dot"}, ["model.remat='dot'", "'dots'"]),
        ({"data__layout": "inat18"}, ["data.layout"]),
        ({"pretrain__warmup_epochs": 50}, ["pretrain.warmup_epochs"]),
        (
            {"finetune__feature_views": 1, "finetune__train_image_tower": True},
            ["finetune.mixup_alpha", "finetune.train_image_tower"],
        ),
        ({"data": 3}, ["data=3"]),
        ({"sed": 1}, ["sed", "'seed'"]),
        ({"anchors__num_anchors": 0, "seed": -1}, ["anchors.num_anchors", "seed=-1"]),
    ],
)
def test_faults_name_the_key(changes, names):
    with pytest.raises(configs.ConfigError) as raised:
        build(**changes)
    assert all(name in str(raised.value) for name in names)


@examples(200)
@given(key=st.sampled_from(sorted(settings.KEYS)), value=st.sampled_from(VALUES))
def test_a_value_is_within_bounds_or_refused_by_key(key, value):
    try:
        config = build(**{key.replace(".", "__"): value})
    except configs.ConfigError as error:
        assert key.rpartition(".")[2] in str(error) or "warmup_epochs" in str(error)
        return
    numbers = [v for v in settings.flatten(config).values() if type(v) in (int, float)]
    assert all(map(math.isfinite, numbers))
    assert configs.from_json(settings.to_json(config)) == config


def test_every_key_has_the_bounds_of_its_section():
    """Breaks if a stage overrides a default and loses the bounds."""
    for field in dataclasses.fields(settings.Training):
        bounds = {
            settings.KEYS[f"{s}.{field.name}"].bounds for s in ("pretrain", "finetune")
        }
        assert bounds == {settings.KEYS[f"classifier.{field.name}"].bounds}
    numbers = [key for key in settings.KEYS.values() if key.kind is float]
    assert all(key.bounds.least >= 0 for key in numbers)


def test_the_table_of_keys_is_current():
    """Breaks if a key, a default or a comment changes without configs/README.md."""
    text = keys_table.README.read_text()
    assert keys_table.updated(text) == text


def test_results_depend_on_every_key_that_is_not_neutral():
    """Breaks if an annotation is lost, or `depends` misses a new section."""
    free = {name for name in settings.KEYS if not depends.matters(name)}
    assert free == {name for name, key in settings.KEYS.items() if key.neutral}
    sections = {name.partition(".")[0] for name in free}
    assert sections == {"data", "model", "pretrain", "mesh", "log", "faults"}
    assert depends.matters("model.compute_dtype") and not depends.matters("model.remat")


def test_a_system_is_made_after_the_overrides():
    """Breaks if the rate of the Baseline is taken before the command line's."""
    changes = {"pretrain__learning_rate": 0.5, "finetune__epochs": 7}
    config = build(method="baseline", **changes)
    assert config.finetune.learning_rate == 0.5
    assert config.finetune.epochs == 50 + 7 and config.pretrain.epochs == 0
    config = build(["finetune.epochs", "evaluate.knn"], method="baseline", **changes)
    assert config.finetune.epochs == 7 and config.evaluate.knn
    assert build(["seed", "pretrain"], method="crt") == build(method="crt")


@pytest.mark.parametrize("method", systems.NAMES)
def test_an_explicit_key_against_the_system_is_refused(method):
    """Breaks if a system is another one under its own name."""
    recipe = systems.METHODS[method]
    for key, value in recipe.needs.items():
        section, _, name = key.partition(".")
        kind, choices = settings.KEYS[key].kind, settings.KEYS[key].choices
        other = next((c for c in choices if c != value), None) or (
            "tiny_clip" if kind is str else kind(not value)
        )
        with pytest.raises(configs.ConfigError, match=f"{key}="):
            build([key], method=method, **{f"{section}__{name}": other})


@pytest.mark.parametrize(
    ("changes", "num_devices", "names"),
    [
        ({"pretrain.global_batch_size": 30}, 8, ["size=30", "24", "32"]),
        ({"mesh.data": 3, "mesh.model": 2}, 8, ["mesh.data=3", "mesh.model=2"]),
        (
            {"mesh.model": 2, "mesh.accumulation_steps": 64},
            32,
            ["mesh.accumulation_steps=64", "finetune.global_batch_size=1024", "2048"],
        ),
    ],
)
def test_batches_must_divide_over_devices_and_chunks(changes, num_devices, names):
    config = build()
    configs.check_devices(config, 8)
    with pytest.raises(configs.ConfigError) as raised:
        configs.check_devices(settings.changed(config, changes), num_devices)
    assert all(name in str(raised.value) for name in names)
    assert "evaluate" not in str(raised.value)  # it accumulates nothing
