"""Models of open_clip: read as its own code builds them, or refused by name."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from open_clip.model import CLIP
from safetensors.numpy import load_file, save_file

from vl_ltr_jax.commands import port
from vl_ltr_jax.models.clip import PRESETS, Clip, variable_shapes
from vl_ltr_jax.models.port import clip_files, convert, open_clip
from vl_ltr_jax.models.port import names as weights
from vl_ltr_jax.models.port.sizes import Details, ModelFileError, from_shapes
from vl_ltr_jax.runtime.errors import UserError
from worlds import open_clip_oracle
from worlds.clip_oracle import hugging_face_batch, relative_error


@pytest.mark.parametrize(
    ("quick_gelu", "vision"),
    [
        (None, {}),
        (True, {"head_width": 16}),
        (False, {"head_width": 32, "mlp_ratio": 4.9231}),
    ],
)
def test_embeddings_are_open_clips(tmp_path, quick_gelu, vision):
    """And their settings come back byte for byte.

    Broken by heads 64 wide for every model, by QuickGELU for GELU, by GELU's tanh
    form, by MLPs of four widths.
    """
    model, source = (
        open_clip_oracle.model_cfg(quick_gelu, **vision),
        tmp_path / "source",
    )
    theirs = open_clip_oracle.save(source, model, resize_mode="squash")
    images, tokens = hugging_face_batch()
    config, variables = clip_files.load_clip(source)
    assert config.text.activation == ("quick_gelu" if quick_gelu else "gelu")
    assert config.vision.heads == 64 // vision.get("head_width", 64)
    expected = open_clip_oracle.embeddings(theirs, images, tokens)
    run = jax.jit(Clip(config).apply)
    actual = run(variables, jnp.asarray(images), jnp.asarray(tokens))
    for ours, embeddings in zip(actual, expected, strict=True):
        assert relative_error(ours, embeddings) < 1e-5
    output = convert.convert(str(source), tmp_path / "output", to="openai")
    for path in source.glob("*.json"):
        assert (output / path.name).read_bytes() == path.read_bytes()


def test_to_hugging_face_and_back(tmp_path):
    """Breaks if heads, activation, MLP or pixels are lost on the way: transformers and
    open_clip give the first model's embeddings, and tensors return byte for byte."""
    from transformers import CLIPModel

    model = open_clip_oracle.model_cfg(head_width=16, mlp_ratio=4.9231)
    half = (0.5, 0.5, 0.5)
    source, hf, back = (tmp_path / name for name in ("source", "hf", "openai"))
    first = open_clip_oracle.save(source, model, mean=half, std=half)
    convert.convert(str(source), hf, to="hf")
    convert.convert(str(hf), back, to="openai")
    images, tokens = hugging_face_batch()
    embeddings = open_clip_oracle.embeddings(first, images, tokens)
    theirs, report = CLIPModel.from_pretrained(hf, output_loading_info=True)
    assert not any(report.values())
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    with torch.no_grad():
        visual = theirs.eval().get_image_features(pixel_values=pixels).pooler_output
        text = theirs.get_text_features(input_ids=torch.from_numpy(tokens).long())
    assert relative_error(visual, embeddings[0]) < 1e-5
    assert relative_error(text.pooler_output, embeddings[1]) < 1e-5
    before, after = (
        load_file(path / "open_clip_model.safetensors") for path in (source, back)
    )
    jax.tree.map(np.testing.assert_array_equal, before, after)
    settings = json.loads((back / "open_clip_config.json").read_text())
    again = CLIP(**settings["model_cfg"]).eval()
    again.load_state_dict({name: torch.from_numpy(a) for name, a in after.items()})
    again = open_clip_oracle.embeddings(again, images, tokens)
    jax.tree.map(np.testing.assert_array_equal, again, embeddings)
    assert settings["preprocess_cfg"]["mean"] == list(half)


@pytest.mark.parametrize(
    ("name", "preset", "activation"),
    [
        ("ViT-B-32", "ViT-B/32", "gelu"),
        ("ViT-B-16-quickgelu", "ViT-B/16", "quick_gelu"),
        ("ViT-L-14", "ViT-L/14", "gelu"),
        ("ViT-H-14", "ViT-H/14", "gelu"),
        ("ViT-bigG-14", "ViT-bigG/14", "gelu"),
        ("RN50-quickgelu", "RN50", "quick_gelu"),
    ],
)
def test_published_sizes_are_presets(name, preset, activation):
    """Tensors, heads and MLPs, without memory. Broken by any size of a preset, and by
    a lone ViT-H that is given heads of 64."""
    model = open_clip_oracle.published(name)
    with torch.device("meta"):
        theirs = CLIP(**model)
    shapes = {key: tuple(tensor.shape) for key, tensor in theirs.state_dict().items()}
    details, _ = open_clip.details(model, name)
    config = from_shapes(shapes, name, details)
    assert config == PRESETS[preset].with_activations(activation, activation)
    assert from_shapes(shapes, name, Details(activation)) == config
    open_clip.check_sizes(model, config, name)
    ours = weights.tensor_shapes(variable_shapes(config), weights.OPENAI)
    weights.check_match(ours, shapes, name)
    blocks = theirs.transformer.resblocks
    assert {block.attn.num_heads for block in blocks} == {config.text.heads}
    if config.vision.kind == "vit":
        blocks = theirs.visual.transformer.resblocks
        assert {block.attn.num_heads for block in blocks} == {config.vision.heads}
        assert blocks[0].mlp.c_fc.out_features == config.vision.mlp_width
        written = json.loads(open_clip.to_json(config, clip_files.Preprocessing(224)))
        ratio = model["vision_cfg"].get("mlp_ratio", 4)
        assert written["model_cfg"]["vision_cfg"]["mlp_ratio"] == ratio


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("ViT-L-14-CLIPA", "no_ln_pre"),
        ("ViT-B-16-SigLIP", "init_logit_bias"),
        ("coca_ViT-B-32", "multimodal_cfg"),
        ("convnext_base", "timm_model_name"),
        ("roberta-ViT-B-32", "hf_model_name"),
        ("EVA02-B-16", "timm_model_name"),
        ("ViT-H-14-worldwide", "hf_tokenizer_name"),
    ],
)
def test_other_towers_are_refused_by_name(name, key):
    with pytest.raises(ModelFileError, match=f"x.json: .*{key}"):
        open_clip.details(open_clip_oracle.published(name), "x.json")


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("text_cfg", "no_causal_mask", True),
        ("text_cfg", "pool_type", "last"),
        ("text_cfg", "act_kwargs", {"approximate": "tanh"}),
        ("text_cfg", "heads", 5),
        ("vision_cfg", "pool_type", "avg"),
        ("vision_cfg", "attentional_pool", True),
        ("vision_cfg", "ls_init_value", 1e-4),
        ("vision_cfg", "norm_kwargs", {"eps": 1e-6}),
        ("vision_cfg", "width", 128),
        ("vision_cfg", "head_width", 24),
        ("vision_cfg", "head_width", "wide"),
        ("vision_cfg", "image_size", [32, 40]),
        ("vision_cfg", "mlp_ratio", 3.5),
        ("vision_cfg", "register_tokens", 4),
        (None, "embed_dim", 41),
        (None, "quick_gelu", "yes"),
    ],
)
def test_a_setting_that_is_not_built_is_refused(
    one_source, tmp_path, section, key, value
):
    """Breaks when a key of the file is ignored."""

    def edit(content):
        model = content["model_cfg"]
        (model[section] if section else model)[key] = value

    copy = edited(one_source, tmp_path, edit)
    with pytest.raises(ModelFileError, match=key.replace("_", ".")):
        clip_files.load_clip(copy)


@pytest.fixture(scope="module")
def one_source(tmp_path_factory):
    directory = tmp_path_factory.mktemp("one") / "source"
    text = {"width": 64, "heads": 1}  # 64 wide, as in all published models
    model = open_clip_oracle.model_cfg(text=text, head_width=32)
    open_clip_oracle.save(directory, model)
    return directory


def edited(source, tmp_path, edit):
    """Copies a directory and changes its settings."""
    copy = shutil.copytree(source, tmp_path / "copy")
    path = copy / "open_clip_config.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    return copy


@pytest.mark.parametrize("side", [[32, 32], 36])
def test_training_settings_are_ignored(one_source, tmp_path, side):
    """DFN's image size, 384 for patches of 14, is no multiple: 27 patches fit."""

    def edit(content):
        vision = {"patch_dropout": 0.5, "image_size": side}
        content["model_cfg"]["vision_cfg"] |= vision
        content["preprocess_cfg"] = {"hf_hub": "somebody/model"}

    file = clip_files.find_clip(edited(one_source, tmp_path, edit))
    assert file.config == clip_files.find_clip(one_source).config
    assert file.preprocessing == clip_files.Preprocessing(32)
    assert ["image_size" in note for note in file.notes] == [True] * (side == 36)


def test_a_logit_scale_of_shape_one_is_refused(one_source, tmp_path):
    path = edited(one_source, tmp_path, lambda content: None)
    path /= "open_clip_model.safetensors"
    save_file(load_file(path) | {"logit_scale": np.ones(1, np.float32)}, path)
    with pytest.raises(weights.WeightMismatchError, match="logit_scale"):
        clip_files.load_clip(path.parent)


def test_a_lone_file_needs_its_activation(one_source, tmp_path, capsys):
    """Breaks if an activation is assumed, or a head width without a warning."""
    lone = tmp_path / "open_clip_pytorch_model.bin"
    state = load_file(one_source / "open_clip_model.safetensors")
    torch.save({name: torch.from_numpy(tensor) for name, tensor in state.items()}, lone)
    with pytest.raises(clip_files.UnknownActivationError, match="init.activation"):
        clip_files.load_clip(lone)
    convert_arguments = ["convert", str(lone), str(tmp_path / "out"), "--to", "openai"]
    assert port.main(convert_arguments) == 2
    assert "--activation" in capsys.readouterr().err
    port.main(["inspect", str(lone)])
    assert "unknown activation" in capsys.readouterr().out
    clip_files.load_clip(lone, activation="gelu")
    assert "--head_width" in capsys.readouterr().err  # 64 is assumed
    original, expected = clip_files.load_clip(one_source)
    config, variables = clip_files.load_clip(lone, activation="gelu", head_width=32)
    assert capsys.readouterr().err == ""
    assert config == original
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    port.main([*convert_arguments, "--activation", "gelu", "--head_width", "32"])
    assert clip_files.find_clip(tmp_path / "out").config == original


def test_arguments_against_the_file_are_refused(one_source):
    with pytest.raises(UserError, match="--head_width"):
        clip_files.load_clip(one_source, head_width=64)
    # The file has no `quick_gelu`: an argument wins over open_clip's default.
    config, _ = clip_files.load_clip(one_source, activation="quick_gelu")
    assert config.text.activation == "quick_gelu"
    config = config.with_activations("gelu", "quick_gelu")
    with pytest.raises(ModelFileError, match="quick_gelu"):
        open_clip.to_json(config, clip_files.Preprocessing(32))
