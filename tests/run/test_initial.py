"""The towers that a run starts from: facts of the files, and what is said of them."""

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
from vl_ltr_jax.models.port.preprocessing import (
    Preprocessing,
    PreprocessingError,
    from_processor_json,
)
from vl_ltr_jax.run import initial
from vl_ltr_jax.run import inputs as run_inputs
from worlds import image_world, open_clip_oracle
from worlds.clip_oracle import hugging_face_clip

HALF = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
SHIPPED = initial.model_source("tiny_clip")


def configured(clip="", **changes):
    config = image_world.configure("root")
    config.model.image_size = 32
    config.init.clip = str(clip)
    return configs.resolve(image_world.change(config, **changes))


@pytest.fixture
def copy(tmp_path):
    """The shipped CLIP, as if it were a GELU model of other pixels."""
    made = shutil.copytree(SHIPPED, tmp_path / "copy")
    content = json.loads((made / "config.json").read_text())
    for tower in ("vision_config", "text_config"):
        content[tower]["hidden_act"] = "gelu"
    (made / "config.json").write_text(json.dumps(content))
    path = made / "preprocessor_config.json"
    pixels = json.loads(path.read_text()) | dict(
        zip(("image_mean", "image_std"), map(list, HALF), strict=True)
    )
    path.write_text(json.dumps(pixels))
    return made


def test_a_run_has_the_models_own_activation_and_pixels(copy, capsys):
    """Breaks if the backbone's name decides, or another model's numbers do."""
    made = initial.read(configured(copy))
    assert made.normalization == HALF
    assert made.clip_config == PRESETS["ViT-tiny"].with_activations("gelu", "gelu")
    assert capsys.readouterr().err == ""
    made = initial.read(configured(copy, data__normalization="clip_4digit"))
    assert made.normalization == NORMALIZATIONS["clip_4digit"]
    assert "data.normalization='clip_4digit'" in capsys.readouterr().err


def test_what_a_run_does_otherwise_is_said(copy, capsys):
    path = copy / "preprocessor_config.json"
    content = json.loads(path.read_text()) | {"resample": 2}
    path.write_text(json.dumps(content))
    initial.read(configured(copy, model__image_size=16))
    said = capsys.readouterr().err
    assert "bilinear" in said and "model.image_size=16" in said
    path.unlink()
    made = initial.read(configured(copy))
    assert made.normalization == NORMALIZATIONS["clip"]
    assert "no file beside" in capsys.readouterr().err


def test_random_towers_have_the_backbones_activation_or_the_named_one():
    assert initial.read(configured()).clip_config == PRESETS["ViT-tiny"]
    named = initial.read(configured(init__activation="gelu")).clip_config
    assert (named.vision.activation, named.text.activation) == ("gelu", "gelu")


def test_the_fitting_backbone_is_named(tmp_path):
    with pytest.raises(initial.InputError, match="Set model.backbone='ViT-tiny'"):
        initial.read(configured(SHIPPED, model__backbone="ViT-B/16"))


def test_a_lone_file_needs_the_key(tmp_path):
    made = convert.convert(str(SHIPPED), tmp_path / "openai", to="openai")
    lone = tmp_path / "lone.safetensors"
    shutil.copy(made / "open_clip_model.safetensors", lone)
    with pytest.raises(clip_files.UnknownActivationError, match="init.activation"):
        initial.read(configured(lone))
    found = initial.read(configured(lone, init__activation="gelu")).clip_config
    assert found.text.activation == "gelu"


def test_a_recognizer_keeps_activation_and_pixels(tmp_path):
    """Breaks if a card names its backbone alone, or an export has OpenAI's pixels."""
    from worlds import small_recognizer

    made = small_recognizer.make("linear")
    made.card = dataclasses.replace(
        made.card, normalization=HALF, vision_activation="gelu"
    )
    made.save(tmp_path / "saved")
    again = vl_ltr_jax.load(tmp_path / "saved")
    assert again.card == made.card
    assert again.card.clip_config.vision.activation == "gelu"
    assert again.card.clip_config.text.activation == "quick_gelu"
    for form in ("hf", "openai"):
        arguments = ["--workdir", str(tmp_path / "saved"), f"--to={form}"]
        out = f"--out={tmp_path / form}"
        if form == "openai":  # one activation for both towers is all it can say
            assert export.main([*arguments, out]) == 2
            continue
        export.main([*arguments, out])
    found = clip_files.find_clip(tmp_path / "hf")
    assert found.config == again.card.clip_config
    assert found.preprocessing.normalization == HALF


PROCESSOR = {
    "processor_class": "CLIPProcessor",
    "image_processor": {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 36},
        "crop_size": {"height": 32, "width": 32},
        "resample": 3,
        "rescale_factor": 1 / 255,
        "image_mean": list(HALF[0]),
        "image_std": list(HALF[1]),
    },
}


@pytest.mark.parametrize("by_way_of", ["hf", "openai", "resized"])
def test_the_processor_of_transformers_5_goes_along(tmp_path, by_way_of):
    """F13 of the public troubles. Breaks if processor_config.json is left behind, or
    OpenAI's numbers are written for the model's own."""
    from transformers import CLIPImageProcessorPil

    source, out = tmp_path / "source", tmp_path / "out"
    hugging_face_clip().save_pretrained(source)
    (source / "processor_config.json").write_text(json.dumps(PROCESSOR))
    size = 64 if by_way_of == "resized" else 32
    if by_way_of == "openai":
        convert.convert(str(source), tmp_path / "between", to="openai")
        source = tmp_path / "between"
    convert.convert(str(source), out, to="hf", image_size=size)
    found = CLIPImageProcessorPil.from_pretrained(out)
    assert (tuple(found.image_mean), tuple(found.image_std)) == HALF
    assert found.crop_size["height"] == size
    if by_way_of == "hf":
        names = {path.name: path.read_bytes() for path in source.iterdir()}
        assert names == {path.name: path.read_bytes() for path in out.iterdir()}
    if by_way_of == "resized":
        assert found.size["shortest_edge"] == 72


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"image_mean": [0.5, 0.5]}, "the mean"),
        ({"image_std": [0.5, 0, 0.5]}, "the std"),
        ({"image_std": "wide"}, "the std"),
        ({"rescale_factor": 1}, "rescale_factor"),
        ({"do_rescale": False}, "do_rescale"),
        ({"resample": 9}, "resample"),
        ({"crop_size": {"height": 32, "width": 40}}, "crop_size"),
        ({"size": {"shortest_edge": [1]}}, "size"),
    ],
)
def test_pixels_that_cannot_be_made_are_refused(changes, word):
    content = PROCESSOR["image_processor"] | changes
    with pytest.raises(PreprocessingError, match=f"x.json: .*{word}"):
        from_processor_json(content, 32, "x.json")


def test_older_forms_of_a_processor_are_read():
    content = {"size": 40, "crop_size": 32, "do_normalize": False, "resample": 2}
    found = from_processor_json(content, 224, "x.json")
    assert found == Preprocessing(
        32, 40, ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), "bilinear", "shortest"
    )
    square = {"size": {"height": 32, "width": 32}, "do_center_crop": False}
    assert from_processor_json(square, 32, "x.json") == Preprocessing(
        32, resize="squash"
    )


def test_towers_that_the_authors_lgr_lacks_are_not_written_as_one(tmp_path, capsys):
    """Breaks if a GELU tower leaves under names that are read back as QuickGELU's."""
    from worlds import small_recognizer

    made = small_recognizer.make()
    made.card = dataclasses.replace(made.card, vision_activation="gelu")
    made.save(tmp_path / "saved")
    assert export.main(["--workdir", str(tmp_path / "saved"), "--to=vl_ltr"]) == 2
    assert "has gelu" in capsys.readouterr().err
    open_clip_oracle.save(tmp_path / "theirs", open_clip_oracle.model_cfg())
    path = tmp_path / "theirs" / "open_clip_model.safetensors"
    with pytest.raises(initial.UserError, match="open_clip_config.json"):
        initial.released(configured(init__vl_ltr=str(path)))


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    """Breaks if ids need only be small enough: the tower would read other words."""
    config = image_world.configure(tmp_path)
    config.data.source = "shapes"
    config.model.backbone, config.model.image_size = "ViT-B/32", 224
    config.init.clip, config.init.tokenizer = "", "tiny_clip"
    with pytest.raises(initial.InputError, match=r"init\.tokenizer.*49408"):
        run_inputs.read(configs.resolve(config))
