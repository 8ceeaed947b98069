"""Weights from and to disk: both families of names, strictness, and the errors."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from vl_ltr_jax.models.clip import PRESETS, Clip, variable_shapes
from vl_ltr_jax.models.port import convert
from vl_ltr_jax.models.port.clip_files import (
    UnknownActivationError,
    find_clip,
    load_clip,
    save_clip,
)
from vl_ltr_jax.models.port.names import (
    OPENAI,
    WeightMismatchError,
    to_tensors,
)
from vl_ltr_jax.models.port.sizes import ModelFileError
from vl_ltr_jax.runtime.errors import UserError
from worlds.clip_oracle import (
    from_openai,
    hugging_face_batch,
    hugging_face_clip,
    relative_error,
    tiny_clip,
)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A directory as `save_pretrained` writes it, and its model."""
    directory = tmp_path_factory.mktemp("hugging_face")
    model = hugging_face_clip()
    model.save_pretrained(directory)
    return directory, model


@pytest.fixture
def copy(published, tmp_path):
    """A copy of that directory, for damages."""
    return shutil.copytree(published[0], tmp_path / "copy")


def logits(model, images, tokens):
    with torch.no_grad():
        outputs = model(
            input_ids=torch.from_numpy(tokens),
            pixel_values=torch.from_numpy(images).permute(0, 3, 1, 2),
        )
    return outputs.logits_per_image.numpy()


def our_logits(config, variables, images, tokens):
    image_emb, text_emb = jax.jit(Clip(config).apply)(
        variables, jnp.asarray(images), jnp.asarray(tokens)
    )
    image_emb /= jnp.linalg.norm(image_emb, axis=1, keepdims=True)
    text_emb /= jnp.linalg.norm(text_emb, axis=1, keepdims=True)
    return np.exp(variables["params"]["logit_scale"]) * image_emb @ text_emb.T


def edit_config(directory, **changes):
    path = directory / "config.json"
    content = json.loads(path.read_text())
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            content[section][name] = value
        else:
            content[section] = value
    path.write_text(json.dumps(content))
    return path


def edit_tensors(directory, edit):
    path = directory / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


def test_hugging_face_logits(published):
    """End to end. Broken by any two projections exchanged or left untransposed."""
    directory, model = published
    images, tokens = hugging_face_batch()
    ours = our_logits(*load_clip(directory), images, tokens)
    assert relative_error(ours, logits(model, images, tokens)) < 1e-4


@pytest.mark.parametrize(
    ("vision_changes", "text_changes"),
    [
        ({"hidden_act": "gelu"}, {"hidden_act": "gelu"}),
        ({"hidden_act": "gelu", "intermediate_size": 100}, {"num_attention_heads": 4}),
        ({"num_attention_heads": 8}, {"hidden_act": "gelu", "intermediate_size": 50}),
        # Old files have this for the end of text, and mean the largest id.
        ({}, {"eos_token_id": 2}),
    ],
)
def test_any_clip_of_hugging_faces(tmp_path, vision_changes, text_changes):
    """Embeddings, and all files byte for byte. Broken by an activation, heads or an
    MLP width of OpenAI's models instead of the file's."""
    model = hugging_face_clip(vision_changes=vision_changes, text_changes=text_changes)
    source = tmp_path / "source"
    model.save_pretrained(source)
    images, tokens = hugging_face_batch()
    ours = our_logits(*load_clip(source), images, tokens)
    assert relative_error(ours, logits(model, images, tokens)) < 1e-5
    output = convert.convert(str(source), tmp_path / "output", to="hf")
    for path in source.iterdir():
        assert (output / path.name).read_bytes() == path.read_bytes()
    config, variables = load_clip(source)
    save_clip(tmp_path / "saved", config, variables, dtype="float32")
    again, _ = load_clip(tmp_path / "saved")
    assert again == config


def test_old_files_override_sizes(published, copy):
    """`vision_config_dict` wins over `vision_config`, in transformers and here."""
    from transformers import CLIPModel

    content = json.loads((copy / "config.json").read_text())
    old = content["vision_config"] | {"num_attention_heads": 4}
    edit_config(copy, vision_config_dict=old)
    theirs = CLIPModel.from_pretrained(copy).eval()
    images, tokens = hugging_face_batch()
    config, variables = load_clip(copy)
    assert config.vision.heads == theirs.config.vision_config.num_attention_heads == 4
    ours = our_logits(config, variables, images, tokens)
    assert relative_error(ours, logits(theirs, images, tokens)) < 1e-5


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 0), ("float16", 1e-3), ("bfloat16", 1e-2)]
)
def test_saved_vit_opens_in_transformers_and_here(
    published, tmp_path, dtype, tolerance
):
    from transformers import CLIPModel

    directory, model = published
    config, variables = load_clip(directory)
    save_clip(tmp_path, config, variables, dtype=dtype)
    theirs, report = CLIPModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    for name, parameter in theirs.float().state_dict().items():
        expected = model.state_dict()[name]
        torch.testing.assert_close(parameter, expected, rtol=tolerance, atol=tolerance)
    images, tokens = hugging_face_batch()
    again, loaded = load_clip(tmp_path)
    assert again == config
    ours = our_logits(again, loaded, images, tokens)
    assert relative_error(ours, logits(theirs.eval(), images, tokens)) < 1e-4
    for leaf in jax.tree.leaves(loaded):
        assert type(leaf) is np.ndarray and leaf.dtype == np.float32


def drawn(config):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape, np.float32),
        variable_shapes(config),
    )


@pytest.mark.parametrize("preset", ["ViT-tiny", "RN-tiny"])
@pytest.mark.parametrize("file", ["open_clip_model.safetensors", "model.safetensors"])
def test_openai_names_are_read(tmp_path, preset, file):
    """Under either file name; shapes give the sizes, an argument the activation."""
    config, variables = PRESETS[preset], drawn(PRESETS[preset])
    save_file(to_tensors(variables, OPENAI), tmp_path / file)
    with pytest.raises(UnknownActivationError, match=file):
        load_clip(tmp_path)
    again, loaded = load_clip(tmp_path, activation="quick_gelu")
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)


def test_resnet_round_trip(tmp_path):
    config, variables = PRESETS["RN-tiny"], drawn(PRESETS["RN-tiny"])
    save_clip(tmp_path, config, variables, dtype="float32")
    again, loaded = load_clip(tmp_path)
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    resized, variables = load_clip(tmp_path, image_size=96)
    pool = variables["params"]["visual"]["attnpool"]
    assert resized.vision.image_size == 96
    assert pool["positional_embedding"].shape == (10, 512)


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_openai_tensors_come_back_as_they_were(kind):
    tiny = tiny_clip(kind)
    back = to_tensors(from_openai(tiny.state, tiny.config), OPENAI)
    assert back.keys() == {
        name for name in tiny.state if not name.endswith("num_batches_tracked")
    }
    for name, tensor in back.items():
        np.testing.assert_array_equal(tensor, tiny.state[name])


def test_loading_for_another_image_size(published):
    directory, _ = published
    config, variables = load_clip(directory, image_size=48)
    assert config.vision.image_size == 48
    images, tokens = jnp.ones((1, 48, 48, 3)), jnp.zeros((1, 4), jnp.int32)
    Clip(config).apply(variables, images, tokens)
    _, original = load_clip(directory)
    positions = original["params"]["visual"].pop("positional_embedding")
    resized = variables["params"]["visual"].pop("positional_embedding")
    np.testing.assert_array_equal(resized[0], positions[0])
    assert resized.shape == (37, 64)
    jax.tree.map(np.testing.assert_array_equal, variables, original)
    with pytest.raises(ValueError, match="image_size"):
        load_clip(directory, image_size=50)


def test_every_mismatch_is_listed(copy):
    def edit(tensors):
        layer = "vision_model.encoder.layers.1"
        tensors[f"{layer}.mlp.fc_1.weight"] = tensors.pop(f"{layer}.mlp.fc1.weight")
        del tensors["text_model.final_layer_norm.bias"]
        tensors["logit_bias"] = np.zeros(())
        tensors["visual_projection.weight"] = tensors["visual_projection.weight"][:39]
        # Ignored, being no weight:
        tensors["text_model.embeddings.position_ids"] = np.arange(14)[None]

    edit_tensors(copy, edit)
    with pytest.raises(WeightMismatchError) as caught:
        load_clip(copy)
    assert str(caught.value).split("\n")[1:] == [
        "  2 missing:",
        "    text_model.final_layer_norm.bias [48]",
        "    vision_model.encoder.layers.1.mlp.fc1.weight [256, 64] "
        "(nearest: vision_model.encoder.layers.1.mlp.fc_1.weight)",
        "  2 unknown:",
        "    logit_bias []",
        "    vision_model.encoder.layers.1.mlp.fc_1.weight [256, 64] "
        "(nearest: vision_model.encoder.layers.1.mlp.fc1.weight)",
        "  1 of another shape:",
        "    visual_projection.weight [39, 64], the model's is [40, 64]",
    ]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"model_type": "siglip"}, "model_type"),
        ({"text_config__hidden_act": "gelu_new"}, "text_config.hidden_act"),
        ({"text_config__eos_token_id": 3}, "text_config.eos_token_id"),
        ({"vision_config__layer_norm_eps": 1e-6}, "vision_config.layer_norm_eps"),
        ({"vision_config__intermediate_size": "x"}, "vision_config.intermediate_size"),
        ({"projection_dim": 0}, "projection_dim"),
        ({"vision_config": [1]}, "vision_config"),
        ({"vision_config__num_attention_heads": 5}, "heads"),
    ],
)
def test_unfit_config_json_is_refused(copy, changes, key):
    path = edit_config(copy, **changes)
    with pytest.raises(ModelFileError, match=f"^{path}: .*{key}"):
        find_clip(copy)


def test_config_json_without_defaults(copy):
    """Old files have `text_config_dict`; short ones only what differs from defaults."""
    (copy / "config.json").write_text(
        json.dumps({"model_type": "clip", "vision_config_dict": {"patch_size": 16}})
    )
    assert find_clip(copy).config == PRESETS["ViT-B/16"]
    with pytest.raises(WeightMismatchError, match="patch_embedding.weight"):
        load_clip(copy)


def with_tensors(**shapes):
    """Returns a damage: weights that hold these tensors only."""

    def write(directory):
        tensors = {name.replace("__", "."): np.zeros(s) for name, s in shapes.items()}
        save_file(tensors, directory / "model.safetensors")

    return write


def cut(size):
    def write(directory):
        path = directory / "model.safetensors"
        path.write_bytes(path.read_bytes()[:size])

    return write


# How a directory is damaged, and the file or tensor that the error names.
DAMAGES = {
    "quotes": (lambda d: (d / "config.json").write_text("{'a'"), "config.json"),
    "bytes": (lambda d: (d / "config.json").write_bytes(b"\xff\xfe"), "config.json"),
    "a list": (lambda d: (d / "config.json").write_text("[]"), "config.json"),
    "no config": (lambda d: (d / "config.json").unlink(), "config.json"),
    "empty": (cut(0), "model.safetensors"),
    "cut": (cut(2000), "model.safetensors"),
    "LFS": (
        lambda d: (d / "model.safetensors").write_text("version https://git-lfs.x"),
        "git lfs pull",
    ),
    "renamed": (
        lambda d: (d / "model.safetensors").rename(d / "w.safetensors"),
        "w.safetensors",
    ),
    "timm's tower": (with_tensors(stem__conv1=3), "stem.conv1"),
    "no image tower": (
        with_tensors(token_embedding__weight=(9, 64)),
        "attnpool.positional_embedding",
    ),
    "no convolution": (
        with_tensors(visual__proj=3, token_embedding__weight=9),
        "visual.conv1.weight",
    ),
    "another rank": (
        with_tensors(
            visual__attnpool__positional_embedding=(5, 128),
            visual__attnpool__c_proj__weight=(64, 128),
            token_embedding__weight=9,
        ),
        "model.safetensors",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_directory_is_refused(copy, name):
    damage, named = DAMAGES[name]
    damage(copy)
    if name in ("no image tower", "no convolution", "another rank"):
        (copy / "config.json").unlink()  # shapes show the sizes
        options = {"activation": "gelu"}
    else:
        options = {}
    with pytest.raises(UserError, match=named):
        load_clip(copy, **options)


def test_a_missing_source_is_refused(tmp_path):
    with pytest.raises(ModelFileError, match="nowhere"):
        load_clip(tmp_path / "nowhere")


def test_open_clip_directory(tmp_path):
    """The weights of both towers win over timm's image tower next to them."""
    config = PRESETS["RN-tiny"]
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape), variable_shapes(config))
    save_clip(tmp_path, config, zeros)
    save_file({"stem.conv1.conv.weight": np.zeros(3)}, tmp_path / "model.safetensors")
    assert find_clip(tmp_path).config == config
    settings = tmp_path / "open_clip_config.json"
    settings.write_text(json.dumps({"model_cfg": {"embed_dim": 128}}))
    with pytest.raises(ModelFileError, match="vision_cfg"):
        find_clip(tmp_path)
