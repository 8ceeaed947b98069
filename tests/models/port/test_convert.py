"""Weights in and out: every format, every family of names, and back, bit by bit."""

import argparse
import collections
import json
import os
import shutil
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from vl_ltr_jax.commands import port
from vl_ltr_jax.models.clip import PRESETS, Clip, ClipConfig, variable_shapes
from vl_ltr_jax.models.lgr import LanguageGuidedHead
from vl_ltr_jax.models.port import clip_files, convert, listing, vl_ltr_files
from vl_ltr_jax.models.port import names as weights
from vl_ltr_jax.models.port.preprocessing import Preprocessing, to_preprocessor_json
from vl_ltr_jax.models.port.tensor_files import TensorFileError, read_tensors
from worlds.clip_oracle import GOLDEN, hugging_face_clip, relative_error
from worlds.openai_clip import openai_clip

TRAIN5 = GOLDEN / "train5"


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def save_hugging_face(directory, dtype=torch.float32, **options):
    hugging_face_clip().to(dtype).save_pretrained(directory, **options)
    (directory / "merges.txt").write_text("#version: 0.2\n")
    return directory


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_hugging_face_comes_back_byte_for_byte(tmp_path, dtype):
    """Breaks when a tensor is left transposed twice, cast through another dtype, or
    when config.json is written again."""
    source = save_hugging_face(tmp_path / "source", dtype)
    output = convert.convert(str(source), tmp_path / "output", to="hf")
    assert contents(output) == contents(source)


@pytest.mark.parametrize("family", ["hf", "openai"])
def test_our_weights_come_back_bit_for_bit(tmp_path, family):
    config, variables = clip_files.load_clip(save_hugging_face(tmp_path / "source"))
    names = convert.FAMILIES[family]
    clip_files.save_clip(
        tmp_path / "out", config, variables, dtype="float32", names=names
    )
    back = weights.from_tensors(
        read_tensors(clip_files.find_weights(tmp_path / "out")),
        variable_shapes(config),
        names,
        "out",
    )
    assert jax.tree.structure(back) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, back, variables)


def test_shards_are_one_model(tmp_path):
    unsharded = save_hugging_face(tmp_path / "unsharded")
    shards = save_hugging_face(tmp_path / "shards", max_shard_size="200KB")
    assert len(list(shards.glob("*.safetensors"))) > 2
    (config, variables), (again, loaded) = map(
        clip_files.load_clip, (unsharded, shards)
    )
    assert config == again
    jax.tree.map(np.testing.assert_array_equal, variables, loaded)
    assert contents(
        convert.convert(str(shards), tmp_path / "output", to="hf")
    ) == contents(unsharded)
    lost = sorted(shards.glob("*.safetensors"))[1]
    lost.rename(tmp_path / "lost")
    with pytest.raises(TensorFileError, match=lost.name):
        clip_files.load_clip(shards)
    shutil.copy(sorted(shards.glob("*.safetensors"))[0], lost)
    with pytest.raises(TensorFileError, match="index.json"):
        clip_files.load_clip(shards)


def torch_features(model, images, tokens):
    with torch.no_grad():
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        return model.encode_image(pixels), model.encode_text(torch.from_numpy(tokens))


@pytest.mark.parametrize("backbone", ["ViT-tiny", "RN-tiny", "RN50"])
def test_openais_own_module(tmp_path, backbone):
    """Features of their model in ours, and a state dict that loads strictly.

    Broken by attention pooling without the mean, a stem of another stride, heads of
    another width, the projection transposed, positions by columns.
    """
    config = PRESETS[backbone]
    theirs = openai_clip(config)
    state = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    save_file(state, tmp_path / "theirs.safetensors")
    again, variables = clip_files.load_clip(
        tmp_path / "theirs.safetensors", activation="quick_gelu"
    )
    assert again == config
    rng = np.random.default_rng(0)
    size = config.vision.image_size
    images = rng.standard_normal((2, size, size, 3), dtype=np.float32)
    end = config.text.vocab_size - 1
    tokens = rng.integers(0, end, (2, 77)).astype(np.int32)
    tokens[:, 20] = end
    expected = torch_features(theirs, images, tokens)
    ours = jax.jit(Clip(config).apply)(variables, images, tokens)
    for actual, features in zip(ours, expected, strict=True):
        assert relative_error(actual, features) < 1e-5

    clip_files.save_clip(
        tmp_path, config, variables, dtype="float32", names=weights.OPENAI
    )
    written = load_file(tmp_path / "open_clip_model.safetensors")
    theirs.load_state_dict({name: torch.from_numpy(a) for name, a in written.items()})
    again = torch_features(theirs, images, tokens)
    torch.testing.assert_close(again, expected, rtol=0, atol=0)


def test_hugging_faces_logits_survive_the_way_there(tmp_path):
    """OpenAI's names to a directory that transformers opens, on sizes of OpenAI's
    kind: heads 64 wide."""
    from transformers import CLIPImageProcessor, CLIPModel

    config = PRESETS["ViT-tiny"]
    theirs = openai_clip(config)
    state = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    output = convert.convert(
        str(tmp_path / "model.safetensors"),
        tmp_path / "hf",
        to="hf",
        activation="quick_gelu",
    )
    model, report = CLIPModel.from_pretrained(output, output_loading_info=True)
    assert not any(report.values())
    assert CLIPImageProcessor.from_pretrained(output).crop_size["height"] == 32
    rng = np.random.default_rng(0)
    images = rng.standard_normal((3, 32, 32, 3), dtype=np.float32)
    tokens = rng.integers(0, 4094, (3, 77)).astype(np.int32)
    tokens[:, 20] = 4095
    with torch.no_grad():
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        expected, _ = theirs(pixels, torch.from_numpy(tokens))
        outputs = model.eval()(
            input_ids=torch.from_numpy(tokens).long(), pixel_values=pixels
        )
    assert relative_error(outputs.logits_per_image, expected) < 1e-4


def test_pictures_are_of_the_size_that_the_model_takes(tmp_path):
    """Breaks if a preprocessor of another size is copied with resized positions."""
    from transformers import CLIPImageProcessor

    source = save_hugging_face(tmp_path / "source")
    size = clip_files.find_clip(source).config.vision.image_size
    other = size + clip_files.find_clip(source).config.vision.patch_size
    (source / "preprocessor_config.json").write_text(
        to_preprocessor_json(Preprocessing(size))
    )
    for name, side in (("same", size), ("other", other)):
        output = convert.convert(str(source), tmp_path / name, to="hf", image_size=side)
        processor = CLIPImageProcessor.from_pretrained(output)
        sides = processor.size["shortest_edge"], processor.crop_size["height"]
        assert sides == (side, side)


@pytest.fixture
def tensors():
    state = openai_clip(PRESETS["ViT-tiny"]).state_dict()
    return {name: tensor.numpy() for name, tensor in state.items()}


def as_torch(tensors, dtype=torch.float32):
    return {name: torch.from_numpy(a.copy()).to(dtype) for name, a in tensors.items()}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("wrapped", "dtype"),
    [
        ("plain", torch.float32),
        ("model", torch.float16),
        ("state_dict", torch.bfloat16),
    ],
)
def test_pytorch_checkpoints(tmp_path, tensors, wrapped, dtype, zipped):
    """With the optimizer, command line and prefix of the authors' and open_clip's."""
    state = as_torch(tensors, dtype)
    prefixed = {f"module.{name}": tensor for name, tensor in state.items()}
    content = {
        "plain": state,
        "state_dict": {"state_dict": prefixed, "name": "run"},
        "model": {
            "model": prefixed,
            "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]},
            "random": torch.get_rng_state(),
            "args": argparse.Namespace(data_set="IMNET_LT", sizes=[1, 2]),
            "counts": collections.Counter("aab"),
        },
    }[wrapped]
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    arrays = read_tensors(path)
    assert arrays.keys() == state.keys()
    for name, tensor in state.items():
        assert arrays[name].dtype == jnp.dtype(str(dtype).removeprefix("torch."))
        np.testing.assert_array_equal(
            arrays[name].astype(np.float32), tensor.float().numpy()
        )


def as_modules(state):
    """Returns modules that only hold the tensors, under the same names."""
    root = torch.nn.Module()
    for name, tensor in state.items():
        owner = root
        *path, leaf = name.split(".")
        for part in path:
            if not hasattr(owner, part):
                owner.add_module(part, torch.nn.Module())
            owner = getattr(owner, part)
        owner.register_buffer(leaf, tensor)
    return root


def test_openais_torchscript(tmp_path):
    """Half precision, and the sizes that OpenAI stored as buffers."""
    config = PRESETS["ViT-tiny"]
    state = openai_clip(config).half().state_dict()
    sizes = {"input_resolution": 32, "context_length": 77, "vocab_size": 4096}
    buffers = {name: torch.tensor(size) for name, size in sizes.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        archive = torch.jit.script(as_modules(state | buffers))
        torch.jit.save(archive, tmp_path / "ViT-tiny.pt")
    again, variables = clip_files.load_clip(tmp_path / "ViT-tiny.pt")
    assert again == config
    kernel = variables["params"]["visual"]["proj"]["kernel"]
    np.testing.assert_array_equal(kernel, state["visual.proj"].float().numpy())
    text = listing.inspect(str(tmp_path / "ViT-tiny.pt"))
    assert "input_resolution  [] int64 unused" in text


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("name", ["args", "visual.proj"])
def test_a_pickle_that_runs_code_is_refused(tmp_path, tensors, name):
    trace, path = tmp_path / "executed", tmp_path / "checkpoint.pth"
    content = {"model": as_torch(tensors), "args": None}
    (content["model"] if name in tensors else content)[name] = Payload(trace)
    torch.save(content, path)
    with pytest.raises(TensorFileError, match="checkpoint.pth"):
        convert.convert(str(path), tmp_path / "output", to="openai")
    assert list(tmp_path.iterdir()) == [path]


def test_pytorch_files_without_pytorch(tmp_path, tensors, monkeypatch):
    torch.save(as_torch(tensors), tmp_path / "checkpoint.pth")
    save_file(tensors, tmp_path / "same.safetensors")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(TensorFileError, match="pip install torch"):
        clip_files.load_clip(tmp_path / "checkpoint.pth")
    clip_files.load_clip(tmp_path / "same.safetensors", activation="quick_gelu")


@pytest.mark.parametrize("size", [0, 2000, 100_000])
def test_truncated_pytorch_files(tmp_path, tensors, size):
    path = tmp_path / "checkpoint.pth"
    torch.save(as_torch(tensors), path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(TensorFileError, match="checkpoint.pth"):
        read_tensors(path)


def test_pytorch_files_without_weights(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "checkpoint.pth")
    with pytest.raises(TensorFileError, match="checkpoint.pth"):
        read_tensors(tmp_path / "checkpoint.pth")


def test_every_key_of_the_authors_six_models_has_its_place():
    """Names and shapes, both ways."""
    keys = json.loads((GOLDEN / "fullsize" / "state_dict_shapes.json").read_text())
    assert len(keys) == 6
    for name, shapes in keys.items():
        config = PRESETS["ViT-B/16" if "vit16" in name else "RN50"]
        theirs = {key: tuple(shape) for key, shape in shapes.items()}
        if vl_ltr_files.kind_of(theirs) == "CVLP":
            ours = weights.tensor_shapes(variable_shapes(config), weights.OPENAI)
        else:
            lgr = vl_ltr_files.lgr_shapes(config.vision, config.embed_dim, 11)
            ours = weights.tensor_shapes(lgr, weights.VL_LTR)
            assert theirs.pop("text_embeddings") == (11, 8, config.embed_dim)
        weights.check_match(ours, theirs, name)
        unused = theirs.keys() - ours.keys()
        assert all(weights.allowance(key) for key in unused)
        assert len(unused) == (55 if "r50" in name else 0) + ("LGR" in name)


def test_authors_lgr_from_its_state_dict():
    """Logits of the first step. Broken by Wq or Wk untransposed, by padding unseen."""
    released = vl_ltr_files.load(TRAIN5 / "lgr_start.safetensors")
    golden = np.load(TRAIN5 / "lgr_hard.npz")
    recognizer = released.released_head
    np.testing.assert_array_equal(recognizer.padding, golden["text_padding_mask"])
    text = PRESETS["ViT-tiny"].text
    model = Clip(ClipConfig(released.vision, text, released.embed_dim))
    images = jnp.asarray(golden["step0/images"].transpose(0, 2, 3, 1))
    features = model.apply(released.variables, images, method="encode_image")
    head = LanguageGuidedHead(
        *recognizer.anchors.shape[::2],
        language_logit_scale=float(released.variables["params"]["logit_scale"]),
    )
    logits = head.apply(
        {"params": recognizer.params},
        features,
        jnp.asarray(recognizer.anchors),
        jnp.asarray(recognizer.padding),
    )
    for branch, name in zip(logits, ("logits0", "logits1"), strict=True):
        assert relative_error(branch, golden[f"step0/{name}"]) < 1e-4


def test_lgr_comes_back_bit_for_bit(tmp_path):
    source = TRAIN5 / "lgr_start.safetensors"
    output = convert.convert(str(source), tmp_path / "output", to="vl_ltr")
    before, after = load_file(source), load_file(output / convert.LGR_FILE)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        if name != "text_block.attn.norm1k.bias":  # without effect; ours has no bias
            np.testing.assert_array_equal(after[name], tensor)
    text = listing.inspect(str(source))
    assert "text_block.attn.wk.weight" in text and "-> head/wk" in text
    with pytest.raises(convert.PortError, match="--to=hf"):
        convert.convert(str(source), tmp_path / "other", to="hf")
    with pytest.raises(ValueError, match="init.vl_ltr"):
        clip_files.load_clip(source)


def test_lgr_mismatches_are_listed(tmp_path):
    tensors = load_file(TRAIN5 / "lgr_start.safetensors")
    tensors["text_block.attn.wqq.weight"] = tensors.pop("text_block.attn.wq.weight")
    save_file(tensors, tmp_path / "lgr.safetensors")
    with pytest.raises(weights.WeightMismatchError) as caught:
        vl_ltr_files.load(tmp_path / "lgr.safetensors")
    assert "(nearest: text_block.attn.wqq.weight)" in str(caught.value)
    del tensors["text_embeddings"]
    save_file(tensors, tmp_path / "lgr.safetensors")
    with pytest.raises(ValueError, match="text_embeddings"):
        vl_ltr_files.load(tmp_path / "lgr.safetensors")


def test_command_line(tmp_path, capsys):
    source, output = save_hugging_face(tmp_path / "source"), str(tmp_path / "output")
    port.main(["inspect", str(source)])
    assert "[40, 64] float32 -> visual/proj/kernel" in capsys.readouterr().out
    port.main(["convert", str(source), output, "--to", "hf", "--image_size", "48"])
    assert clip_files.find_clip(output).config.vision.image_size == 48
    for arguments, name in (
        (["convert", str(source), output, "--to", "openai"], output),
        (["inspect", str(tmp_path / "no")], str(tmp_path / "no")),
        (["convert", str(source), str(tmp_path / "x"), "--to", "vl_ltr"], "--to"),
    ):
        assert port.main(arguments) == 2
        assert name in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["output", "source"]
