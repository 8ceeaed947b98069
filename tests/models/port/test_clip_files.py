"""Weights from and to disk: both families of names, strictness, and the errors."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vl_ltr_jax.models.clip import PRESETS, variable_shapes
from vl_ltr_jax.models.port.clip_files import (
    UnknownActivationError,
    find_clip,
    load_clip,
    save_clip,
)
from vl_ltr_jax.models.port.names import OPENAI, WeightMismatchError, to_tensors
from vl_ltr_jax.models.port.sizes import ModelFileError
from vl_ltr_jax.runtime.errors import UserError
from worlds.clip_oracle import hugging_face_clip


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A directory as `save_pretrained` writes it."""
    directory = tmp_path_factory.mktemp("hugging_face")
    hugging_face_clip().save_pretrained(directory)
    return directory


@pytest.fixture
def copy(published, tmp_path):
    """A copy of that directory, for damages."""
    return shutil.copytree(published, tmp_path / "copy")


def test_sections_of_old_files(copy):
    """`vision_config_dict` wins over `vision_config`, in transformers and here; short
    files have only what differs from the defaults."""
    from transformers import CLIPConfig

    content = {"model_type": "clip", "vision_config": {"num_attention_heads": 2}}
    content["vision_config_dict"] = {"patch_size": 16}
    (copy / "config.json").write_text(json.dumps(content))
    config = find_clip(copy).config
    assert config == PRESETS["ViT-B/16"]
    theirs = CLIPConfig.from_pretrained(copy).vision_config
    assert config.vision.heads == theirs.num_attention_heads


def drawn(config):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape, np.float32),
        variable_shapes(config),
    )


def test_openai_names_are_read(tmp_path):
    """Shapes give the sizes, an argument the activation."""
    config, variables = PRESETS["ViT-tiny"], drawn(PRESETS["ViT-tiny"])
    save_file(to_tensors(variables, OPENAI), tmp_path / "model.safetensors")
    with pytest.raises(UnknownActivationError, match="model.safetensors"):
        load_clip(tmp_path)
    again, loaded = load_clip(tmp_path, activation="quick_gelu")
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)


def test_a_directory_of_open_clips(tmp_path):
    """The weights of both towers win over timm's image tower next to them."""
    config, variables = PRESETS["RN-tiny"], drawn(PRESETS["RN-tiny"])
    save_clip(tmp_path, config, variables, dtype="float32")
    save_file({"stem.conv1.conv.weight": np.zeros(3)}, tmp_path / "model.safetensors")
    again, loaded = load_clip(tmp_path)
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    _, resized = load_clip(tmp_path, image_size=96)
    pool = resized["params"]["visual"]["attnpool"]
    assert pool["positional_embedding"].shape == (10, 512)
    settings = tmp_path / "open_clip_config.json"
    settings.write_text(json.dumps({"model_cfg": {"embed_dim": 128}}))
    with pytest.raises(ModelFileError, match="vision_cfg"):
        find_clip(tmp_path)


def test_only_positions_depend_on_the_image_size(published):
    config, resized = load_clip(published, image_size=48)
    assert config.vision.image_size == 48
    _, original = load_clip(published)
    before, after = (
        variables["params"]["visual"].pop("positional_embedding")
        for variables in (original, resized)
    )
    np.testing.assert_array_equal(after[0], before[0])
    assert after.shape == (37, 64)
    jax.tree.map(np.testing.assert_array_equal, resized, original)
    with pytest.raises(ValueError, match="image_size"):
        load_clip(published, image_size=50)


def test_every_mismatch_is_listed(copy):
    path, layer = copy / "model.safetensors", "vision_model.encoder.layers.1"
    tensors = load_file(path)
    tensors[f"{layer}.mlp.fc_1.weight"] = tensors.pop(f"{layer}.mlp.fc1.weight")
    del tensors["text_model.final_layer_norm.bias"]
    tensors["logit_bias"] = np.zeros(())
    tensors["visual_projection.weight"] = tensors["visual_projection.weight"][:39]
    # Ignored, being no weight:
    tensors["text_model.embeddings.position_ids"] = np.arange(14)[None]
    save_file(tensors, path)
    with pytest.raises(WeightMismatchError, match="model.safetensors") as caught:
        load_clip(copy)
    first_words = [line.split()[0] for line in str(caught.value).split("\n")[1:]]
    assert first_words == [
        *("2", "text_model.final_layer_norm.bias", f"{layer}.mlp.fc1.weight"),
        *("2", "logit_bias", f"{layer}.mlp.fc_1.weight"),
        *("1", "visual_projection.weight"),
    ]


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        (None, "model_type", "siglip"),
        (None, "vision_config", [1]),
        ("text_config", "eos_token_id", 3),
        ("vision_config", "layer_norm_eps", 1e-6),
        ("vision_config", "intermediate_size", "x"),
        ("vision_config", "num_attention_heads", 5),
    ],
)
def test_unfit_config_json_is_refused(copy, section, key, value):
    path = copy / "config.json"
    content = json.loads(path.read_text())
    (content[section] if section else content)[key] = value
    path.write_text(json.dumps(content))
    word = key.removeprefix("num_attention_")
    with pytest.raises(ModelFileError, match=f"^{path}: .*{word}"):
        find_clip(copy)


@pytest.mark.parametrize(
    ("file", "content", "word"),
    [
        ("config.json", "[]", "config.json"),
        ("config.json", None, "config.json"),
        ("model.safetensors", "version https://git-lfs.x", "git lfs pull"),
        ("model.safetensors", None, "renamed.safetensors"),
        (".", None, "copy"),
    ],
)
def test_a_damaged_directory_is_refused(copy, file, content, word):
    if content is None:
        (copy / file).rename((copy / file).with_name("renamed.safetensors"))
    else:
        (copy / file).write_text(content)
    with pytest.raises(UserError, match=word):
        load_clip(copy)


@pytest.mark.parametrize(
    ("shapes", "word"),
    [
        ({"stem.conv1": 3}, "stem.conv1"),
        ({"visual.proj": 3, "token_embedding.weight": 9}, "visual.conv1.weight"),
        (
            {
                "visual.attnpool.positional_embedding": (5, 128),
                "visual.attnpool.c_proj.weight": (64, 128),
                "token_embedding.weight": 9,
            },
            "lone.safetensors",
        ),
    ],
)
def test_tensors_of_another_model_are_refused(tmp_path, shapes, word):
    path = tmp_path / "lone.safetensors"
    save_file({name: np.zeros(shape) for name, shape in shapes.items()}, path)
    with pytest.raises(ModelFileError, match=word):
        load_clip(path, activation="gelu")
