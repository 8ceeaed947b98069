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

CLIP_PIXELS = (0.48145466, 0.4578275, 0.40821073)
# Names of open_clip's settings, the preset of the same sizes, and its activation.
PUBLISHED = (
    ("ViT-B-32", "ViT-B/32", "gelu"),
    ("ViT-B-16-quickgelu", "ViT-B/16", "quick_gelu"),
    ("ViT-L-14", "ViT-L/14", "gelu"),
    ("ViT-H-14", "ViT-H/14", "gelu"),
    ("ViT-bigG-14", "ViT-bigG/14", "gelu"),
    ("RN50-quickgelu", "RN50", "quick_gelu"),
)


def our_embeddings(config, variables, images, tokens):
    run = jax.jit(Clip(config).apply)
    return run(variables, jnp.asarray(images), jnp.asarray(tokens))


@pytest.mark.parametrize("quick_gelu", [True, False, None])
@pytest.mark.parametrize(
    "vision", [{}, {"head_width": 16}, {"head_width": 32, "mlp_ratio": 4.9231}]
)
def test_embeddings_are_open_clips(tmp_path, quick_gelu, vision):
    """Broken by heads 64 wide for every model, by QuickGELU for GELU, by GELU's tanh
    form, by MLPs of four widths."""
    model = open_clip_oracle.model_cfg(quick_gelu, **vision)
    theirs = open_clip_oracle.save(tmp_path / "source", model)
    images, tokens = hugging_face_batch()
    config, variables = clip_files.load_clip(tmp_path / "source")
    assert config.text.activation == ("quick_gelu" if quick_gelu else "gelu")
    assert config.vision.heads == 64 // vision.get("head_width", 64)
    wanted = open_clip_oracle.embeddings(theirs, images, tokens)
    found = our_embeddings(config, variables, images, tokens)
    for ours, expected in zip(found, wanted, strict=True):
        assert relative_error(ours, expected) < 1e-5


def test_to_hugging_face_and_back(tmp_path):
    """Breaks if heads, activation, MLP or pixels are lost on the way: transformers and
    open_clip give the first model's embeddings, and tensors return byte for byte."""
    from transformers import CLIPModel

    model = open_clip_oracle.model_cfg(head_width=16, mlp_ratio=4.9231)
    half = (0.5, 0.5, 0.5)
    source, there, back = (tmp_path / name for name in ("source", "hf", "openai"))
    first = open_clip_oracle.save(source, model, mean=half, std=half)
    convert.convert(str(source), there, to="hf")
    convert.convert(str(there), back, to="openai")
    images, tokens = hugging_face_batch()
    wanted = open_clip_oracle.embeddings(first, images, tokens)
    theirs, report = CLIPModel.from_pretrained(there, output_loading_info=True)
    assert not any(report.values())
    assert theirs.config.vision_config.num_attention_heads == 4
    assert theirs.config.vision_config.intermediate_size == 315
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    with torch.no_grad():
        visual = theirs.eval().get_image_features(pixel_values=pixels).pooler_output
        text = theirs.get_text_features(input_ids=torch.from_numpy(tokens).long())
    assert relative_error(visual, wanted[0]) < 1e-5
    assert relative_error(text.pooler_output, wanted[1]) < 1e-5
    processor = json.loads((there / "preprocessor_config.json").read_text())
    assert processor["image_mean"] == processor["image_std"] == list(half)

    before = load_file(source / "open_clip_model.safetensors")
    after = load_file(back / "open_clip_model.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        np.testing.assert_array_equal(after[name], tensor, strict=True)
    settings = json.loads((back / "open_clip_config.json").read_text())
    again = CLIP(**settings["model_cfg"]).eval()
    again.load_state_dict({name: torch.from_numpy(a) for name, a in after.items()})
    for found, expected in zip(
        open_clip_oracle.embeddings(again, images, tokens), wanted, strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    assert settings["preprocess_cfg"]["mean"] == list(half)


def test_open_clips_files_come_back_byte_for_byte(tmp_path):
    model = open_clip_oracle.model_cfg(head_width=32)
    open_clip_oracle.save(tmp_path / "source", model, resize_mode="squash")
    made = convert.convert(str(tmp_path / "source"), tmp_path / "made", to="openai")
    settings = "open_clip_config.json"
    assert (made / settings).read_bytes() == (
        tmp_path / "source" / settings
    ).read_bytes()
    before = load_file(tmp_path / "source" / "open_clip_model.safetensors")
    after = load_file(made / "open_clip_model.safetensors")
    for name, tensor in before.items():
        np.testing.assert_array_equal(after[name], tensor, strict=True)


@pytest.mark.parametrize(("name", "preset", "activation"), PUBLISHED)
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
    wanted = weights.tensor_shapes(variable_shapes(config), weights.OPENAI)
    weights.check_match(wanted, shapes, name)
    blocks = theirs.transformer.resblocks
    assert {block.attn.num_heads for block in blocks} == {config.text.heads}
    if config.vision.kind == "vit":
        blocks = theirs.visual.transformer.resblocks
        assert {block.attn.num_heads for block in blocks} == {config.vision.heads}
        assert blocks[0].mlp.c_fc.out_features == config.vision.mlp_width
    written = json.loads(
        open_clip.to_json(config, clip_files.Preprocessing(config.vision.image_size))
    )["model_cfg"]
    if config.vision.kind == "vit":
        assert written["vision_cfg"]["mlp_ratio"] == model["vision_cfg"].get(
            "mlp_ratio", 4
        )


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
    with pytest.raises(ModelFileError, match=f"x.json: model_cfg.*{key} is .*; built"):
        open_clip.details(open_clip_oracle.published(name), "x.json")


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("text_cfg", "no_causal_mask", True),
        ("text_cfg", "pool_type", "last"),
        ("text_cfg", "act_kwargs", {"approximate": "tanh"}),
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
        ("text_cfg", "heads", 5),
        (None, "embed_dim", 41),
        (None, "quick_gelu", "yes"),
    ],
)
def test_a_setting_that_is_not_built_is_refused(
    one_source, tmp_path, section, key, value
):
    """Breaks when a key of the file is passed over in silence."""
    copy = shutil.copytree(one_source, tmp_path / "copy")
    path = copy / "open_clip_config.json"
    content = json.loads(path.read_text())
    model = content["model_cfg"]
    (model[section] if section else model)[key] = value
    path.write_text(json.dumps(content))
    names = {"head_width": "head.width", "heads": "heads"}
    with pytest.raises(ModelFileError, match=names.get(key, key)):
        clip_files.load_clip(copy)


@pytest.fixture(scope="module")
def one_source(tmp_path_factory):
    directory = tmp_path_factory.mktemp("one") / "source"
    text = {"width": 64, "heads": 1}  # 64 wide, as in all published models
    model = open_clip_oracle.model_cfg(text=text, head_width=32)
    open_clip_oracle.save(directory, model)
    return directory


def test_training_settings_are_left_out(one_source, tmp_path):
    copy = shutil.copytree(one_source, tmp_path / "copy")
    path = copy / "open_clip_config.json"
    content = json.loads(path.read_text())
    content["model_cfg"]["vision_cfg"] |= {"patch_dropout": 0.5, "image_size": [32, 32]}
    content["model_cfg"]["custom_text"] = False
    content["preprocess_cfg"] = {"hf_hub": "somebody/model"}
    path.write_text(json.dumps(content))
    found = clip_files.find_clip(copy)
    assert found.config == clip_files.read_config(one_source)
    assert found.preprocessing == clip_files.Preprocessing(32)
    assert found.notes == ()


def test_an_image_size_between_patches_is_said(one_source, tmp_path):
    """DFN's file says 384 for patches of 14, of which 27 fit."""
    copy = shutil.copytree(one_source, tmp_path / "copy")
    path = copy / "open_clip_config.json"
    path.write_text(path.read_text().replace('"image_size": 32', '"image_size": 36'))
    found = clip_files.find_clip(copy)
    assert found.config.vision.image_size == 32
    assert "image_size" in found.notes[0]


def test_a_lone_file_is_asked_about(one_source, tmp_path, capsys):
    """Breaks if an activation is taken for granted. F2 of the public troubles."""
    lone = tmp_path / "open_clip_pytorch_model.bin"
    state = load_file(one_source / "open_clip_model.safetensors")
    torch.save({name: torch.from_numpy(tensor) for name, tensor in state.items()}, lone)
    with pytest.raises(clip_files.UnknownActivationError, match="init.activation"):
        clip_files.load_clip(lone)
    code = port.main(["convert", str(lone), str(tmp_path / "out"), "--to", "hf"])
    assert code == 2
    assert "--activation" in capsys.readouterr().err
    port.main(["inspect", str(lone)])
    shown = capsys.readouterr().out
    assert "unknown activation" in shown and "visual/proj/kernel" in shown
    config, _ = clip_files.load_clip(lone, activation="gelu")
    assert config.vision.heads == 1
    assert "--head_width" in capsys.readouterr().err  # 64 is assumed, and said
    config, variables = clip_files.load_clip(lone, activation="gelu", head_width=32)
    assert capsys.readouterr().err == ""
    wanted, expected = clip_files.load_clip(one_source)
    assert config == wanted
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    options = ["--to", "openai", "--activation", "gelu", "--head_width", "32"]
    port.main(["convert", str(lone), str(tmp_path / "out"), *options])
    assert clip_files.read_config(tmp_path / "out") == wanted


def test_a_flag_against_the_file_is_refused(one_source):
    for options in ({"head_width": 64}, {"head_width": 16}):
        with pytest.raises(UserError, match="--head_width=.* says 32"):
            clip_files.load_clip(one_source, **options)
    # The file has no `quick_gelu`: what open_clip makes of that may be named otherwise.
    config, _ = clip_files.load_clip(one_source, activation="quick_gelu")
    assert config.text.activation == "quick_gelu"


def test_an_epochs_checkpoint_is_listed(one_source, tmp_path, capsys):
    """As open_clip's training saves it: `state_dict`, and DistributedDataParallel's
    prefix."""
    state = load_file(one_source / "open_clip_model.safetensors")
    torch.save(
        {
            "epoch": 3,
            "name": "run",
            "state_dict": {
                f"module.{name}": torch.from_numpy(tensor)
                for name, tensor in state.items()
            },
        },
        tmp_path / "epoch_3.pt",
    )
    port.main(["inspect", str(tmp_path / "epoch_3.pt")])
    assert "logit_scale" in capsys.readouterr().out


def test_two_activations_have_no_form_of_open_clips(one_source):
    config = clip_files.read_config(one_source).with_activations("gelu", "quick_gelu")
    with pytest.raises(ModelFileError, match="gelu and quick_gelu"):
        open_clip.to_json(config, clip_files.Preprocessing(32))


def test_a_logit_scale_of_shape_one_is_refused(one_source, tmp_path):
    copy = shutil.copytree(one_source, tmp_path / "copy")
    path = copy / "open_clip_model.safetensors"
    save_file(load_file(path) | {"logit_scale": np.ones(1, np.float32)}, path)
    with pytest.raises(weights.WeightMismatchError, match=r"logit_scale \[1\]"):
        clip_files.load_clip(copy)
