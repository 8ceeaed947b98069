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
    read_config,
    save_clip,
)
from vl_ltr_jax.models.port.names import (
    OPENAI,
    WeightMismatchError,
    from_openai,
    to_tensors,
)
from vl_ltr_jax.runtime.errors import UserError
from worlds.clip_oracle import (
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
    """A copy of that directory, to be spoilt."""
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
        # What old files have for the end of text: the largest id is meant.
        ({}, {"eos_token_id": 2}),
    ],
)
def test_any_clip_of_hugging_faces(tmp_path, vision_changes, text_changes):
    """Embeddings, and all files byte for byte. Broken by an activation, heads or an
    MLP's width of OpenAI's models in place of the file's."""
    model = hugging_face_clip(vision_changes=vision_changes, text_changes=text_changes)
    source = tmp_path / "source"
    model.save_pretrained(source)
    images, tokens = hugging_face_batch()
    ours = our_logits(*load_clip(source), images, tokens)
    assert relative_error(ours, logits(model, images, tokens)) < 1e-5
    made = convert.convert(str(source), tmp_path / "made", to="hf")
    for path in source.iterdir():
        assert (made / path.name).read_bytes() == path.read_bytes()
    config, variables = load_clip(source)
    save_clip(tmp_path / "anew", config, variables, dtype="float32")
    again, _ = load_clip(tmp_path / "anew")
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


def test_a_pointer_of_git_lfs_is_called_so(copy):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (copy / "model.safetensors").write_bytes(pointer)
    with pytest.raises(UserError, match="model.safetensors: a Git LFS pointer"):
        load_clip(copy)


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


@pytest.mark.parametrize("kind", ["vit", "resnet"])
@pytest.mark.parametrize("file", ["open_clip_model.safetensors", "model.safetensors"])
def test_openai_names_are_read(tmp_path, kind, file):
    """Under either file name; sizes come of the shapes, the activation is asked for."""
    config = {"vit": PRESETS["ViT-tiny"], "resnet": PRESETS["RN-tiny"]}[kind]
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape, np.float32),
        variable_shapes(config),
    )
    save_file(to_tensors(variables, OPENAI), tmp_path / file)
    with pytest.raises(UnknownActivationError, match=f"{file}.*--activation.*init.act"):
        load_clip(tmp_path)
    again, loaded = load_clip(tmp_path, activation="quick_gelu")
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)


def test_resnet_round_trip(tmp_path):
    config = PRESETS["RN-tiny"]
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape, np.float32),
        variable_shapes(config),
    )
    save_clip(tmp_path, config, variables, dtype="float32")
    again, loaded = load_clip(tmp_path)
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)


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
    with pytest.raises(ValueError, match="image_size 50 is not a multiple of 8"):
        load_clip(directory, image_size=50)


def test_resnet_for_another_image_size(tmp_path):
    config = PRESETS["RN-tiny"]
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape), variable_shapes(config))
    save_clip(tmp_path, config, zeros)
    config, variables = load_clip(tmp_path, image_size=96)
    pool = variables["params"]["visual"]["attnpool"]
    assert config.vision.image_size == 96
    assert pool["positional_embedding"].shape == (10, 512)


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
    assert str(caught.value).split("\n") == [
        f"{copy / 'model.safetensors'} does not hold this model:",
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


def test_openai_state_of_another_model_is_refused():
    vit, resnet = tiny_clip("vit"), tiny_clip("resnet")
    with pytest.raises(WeightMismatchError) as caught:
        from_openai(resnet.state, vit.config)
    message = str(caught.value)
    assert "visual.attnpool.c_proj.weight [24, 128]" in message
    assert "in_proj_weight [96, 32], the model's is [144, 48]" in message
    assert "num_batches_tracked" not in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "siglip"}, "model_type is 'siglip', not 'clip'"),
        ({"text_config__hidden_act": "gelu_new"}, "hidden_act is 'gelu_new'; built"),
        ({"text_config__eos_token_id": 3}, "eos_token_id is 3; .* largest id here, 99"),
        ({"vision_config__layer_norm_eps": 1e-6}, r"layer_norm_eps is 1e-06; .* 1e-05"),
        ({"vision_config__intermediate_size": "x"}, "intermediate_size is 'x', not a"),
        (
            {"text_config__vocab_size": "many"},
            "text_config.vocab_size is 'many', not a",
        ),
        ({"projection_dim": 0}, "projection_dim is 0, not a positive integer"),
        ({"vision_config": [1]}, r"vision_config is \[1\], not an object"),
        ({"vision_config__num_attention_heads": 5}, "64 is not a multiple of its 5"),
    ],
)
def test_unfit_config_json_is_refused(copy, changes, message):
    path = edit_config(copy, **changes)
    with pytest.raises(ValueError, match=f"^{path}: .*{message}"):
        read_config(copy)


def test_config_json_may_leave_out_the_defaults(published, copy):
    """Old files have `text_config_dict`; short ones nothing that equals the default."""
    (copy / "config.json").write_text(
        json.dumps({"model_type": "clip", "vision_config_dict": {"patch_size": 16}})
    )
    assert read_config(copy) == PRESETS["ViT-B/16"]
    with pytest.raises(
        WeightMismatchError, match=r"patch_embedding.weight \[64, 3, 8,"
    ):
        load_clip(copy)


@pytest.mark.parametrize("content", [b"{'model_type'", b"\xff\xfe", b"[]"])
def test_malformed_config_json(copy, content):
    (copy / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config.json: (not JSON|holds a list)"):
        read_config(copy)


@pytest.mark.parametrize("size", [0, 4, 2000, 200_000])
def test_truncated_safetensors(copy, size):
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=f"not a whole safetensors .* It is {size} by"):
        load_clip(copy)


def test_missing_files_say_how_to_get_them(copy, tmp_path):
    with pytest.raises(
        ValueError, match="There is no such file or directory.*hf download"
    ):
        load_clip(tmp_path / "nowhere")
    (copy / "config.json").unlink()
    with pytest.raises(ValueError, match="config.json: missing beside the weights"):
        load_clip(copy)
    (copy / "model.safetensors").rename(copy / "weights.safetensors")
    with pytest.raises(ValueError, match=r"It holds weights.safetensors. If one of"):
        load_clip(copy)


def test_image_tower_alone_is_refused(copy):
    tensors = {"stem.conv1.conv.weight": np.zeros(3, np.float32)}
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(
        ValueError, match="stem.conv1.conv.weight, ... These are timm's"
    ):
        load_clip(copy)


def test_open_clip_directory(tmp_path):
    """The weights of both towers win over timm's image tower beside them."""
    config = PRESETS["RN-tiny"]
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape), variable_shapes(config))
    save_clip(tmp_path, config, zeros)
    save_file({"stem.conv1.conv.weight": np.zeros(3)}, tmp_path / "model.safetensors")
    assert read_config(tmp_path) == config
    settings = tmp_path / "open_clip_config.json"
    settings.write_text(json.dumps({"model_cfg": {"embed_dim": 128}}))
    with pytest.raises(UserError, match="model_cfg.vision_cfg is None, not an object"):
        read_config(tmp_path)


def test_openai_tensors_too_few_to_tell_the_size(tmp_path):
    path = tmp_path / "open_clip_model.safetensors"
    save_file({"token_embedding.weight": np.zeros((9, 64))}, path)
    with pytest.raises(ValueError, match="attnpool.positional_embedding' is missing"):
        find_clip(tmp_path, activation="gelu")
    save_file({"visual.proj": np.zeros(3), "token_embedding.weight": np.zeros(9)}, path)
    with pytest.raises(ValueError, match="visual.conv1.weight' is missing"):
        find_clip(tmp_path, activation="gelu")
    tensors = {
        "visual.attnpool.positional_embedding": np.zeros((5, 128)),
        "visual.attnpool.c_proj.weight": np.zeros((64, 128)),
        "token_embedding.weight": np.zeros(9),
    }
    save_file(tensors, path)
    with pytest.raises(ValueError, match="the tensors are not those of a CLIP"):
        find_clip(tmp_path, activation="gelu")
