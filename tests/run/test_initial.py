"""The towers at the start of a run: sizes, activations, pixels and warnings."""

import dataclasses
import json
import shutil

import pytest

import vl_ltr_jax
from vl_ltr_jax.commands import export
from vl_ltr_jax.config import build as configs
from vl_ltr_jax.data.images.transforms import NORMALIZATIONS
from vl_ltr_jax.models.clip import PRESETS
from vl_ltr_jax.models.port import clip_files, convert
from vl_ltr_jax.run import initial
from vl_ltr_jax.run import inputs as run_inputs
from worlds import image_world, open_clip_oracle, small_recognizer

HALF = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
SHIPPED = initial.model_source("tiny_clip")


def configured(clip="", **changes):
    config = image_world.configure("root")
    config.model.image_size = 32
    config.init.clip = str(clip)
    return configs.resolve(image_world.change(config, **changes))


@pytest.fixture
def gelu_clip(tmp_path):
    """The shipped CLIP, as if it were a GELU model of other pixels."""
    model = shutil.copytree(SHIPPED, tmp_path / "copy")
    edit(
        model / "config.json",
        vision_config={"hidden_act": "gelu"},
        text_config={"hidden_act": "gelu"},
    )
    edit(model / "preprocessor_config.json", image_mean=HALF[0], image_std=HALF[1])
    return model


def edit(path, **changes):
    content = json.loads(path.read_text())
    for key, value in changes.items():
        content[key] = content[key] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(content))


def test_a_run_has_the_models_own_activation_and_pixels(gelu_clip, capsys):
    """Breaks if the backbone's name decides, or another model's numbers do."""
    towers = initial.read(configured(gelu_clip))
    assert towers.normalization == HALF
    assert towers.clip_config == PRESETS["ViT-tiny"].with_activations("gelu", "gelu")
    assert capsys.readouterr().err == ""
    towers = initial.read(configured(gelu_clip, data__normalization="clip_4digit"))
    assert towers.normalization == NORMALIZATIONS["clip_4digit"]
    assert "data.normalization='clip_4digit'" in capsys.readouterr().err


def test_differences_from_the_models_pixels_are_warned_of(gelu_clip, capsys):
    path = gelu_clip / "preprocessor_config.json"
    edit(path, resample=2)
    initial.read(configured(gelu_clip, model__image_size=16))
    warning = capsys.readouterr().err
    assert "bilinear" in warning and "model.image_size=16" in warning
    path.unlink()
    towers = initial.read(configured(gelu_clip))
    assert towers.normalization == NORMALIZATIONS["clip"]
    assert "data.normalization" in capsys.readouterr().err


def test_random_towers_have_the_backbones_activation_or_that_of_the_key():
    assert initial.read(configured()).clip_config == PRESETS["ViT-tiny"]
    changed = initial.read(configured(init__activation="gelu")).clip_config
    assert (changed.vision.activation, changed.text.activation) == ("gelu", "gelu")


def test_the_fitting_backbone_is_named():
    with pytest.raises(initial.InputError, match="model.backbone='ViT-tiny'"):
        initial.read(configured(SHIPPED, model__backbone="ViT-B/16"))


def test_a_single_file_needs_init_activation(tmp_path):
    model = convert.convert(str(SHIPPED), tmp_path / "openai", to="openai")
    path = tmp_path / "lone.safetensors"
    shutil.copy(model / "open_clip_model.safetensors", path)
    with pytest.raises(clip_files.UnknownActivationError, match="init.activation"):
        initial.read(configured(path))
    towers = initial.read(configured(path, init__activation="gelu"))
    assert towers.clip_config.text.activation == "gelu"


def test_a_saved_recognizer_has_its_activation_and_pixels(tmp_path):
    """Breaks if a card names its backbone alone, or an export has OpenAI's pixels."""
    recognizer = small_recognizer.make()
    recognizer.card = dataclasses.replace(
        recognizer.card, vision_activation="gelu", normalization=HALF
    )
    recognizer.save(tmp_path / "saved")
    arguments = ["--workdir", str(tmp_path / "saved")]
    loaded = vl_ltr_jax.load(tmp_path / "saved")
    assert loaded.card == recognizer.card
    assert loaded.card.clip_config.vision.activation == "gelu"
    assert loaded.card.clip_config.text.activation == "quick_gelu"
    # OpenAI's form has one activation for both towers.
    assert export.main([*arguments, "--to=openai", f"--out={tmp_path / 'openai'}"]) == 2
    export.main([*arguments, "--to=hf", f"--out={tmp_path / 'hf'}"])
    model = clip_files.find_clip(tmp_path / "hf")
    assert model.config == loaded.card.clip_config
    assert model.preprocessing.normalization == HALF


def test_an_authors_lgr_of_open_clip_is_refused(tmp_path):
    """Breaks if a GELU tower is read as QuickGELU's."""
    open_clip_oracle.save(tmp_path / "oracle", open_clip_oracle.model_cfg())
    path = tmp_path / "oracle" / "open_clip_model.safetensors"
    with pytest.raises(initial.UserError, match="open_clip_config.json"):
        initial.released(configured(init__vl_ltr=str(path)))


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    """Breaks if ids need only be small enough: the tower would read other words."""
    config = image_world.configure(tmp_path)
    config.data.source = "shapes"
    config.model.backbone, config.model.image_size = "ViT-B/32", 224
    config.init.clip, config.init.tokenizer = "", "tiny_clip"
    with pytest.raises(initial.InputError, match=r"init\.tokenizer"):
        run_inputs.read(configs.resolve(config))
