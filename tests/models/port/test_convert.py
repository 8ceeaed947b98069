"""Weights in and out: every format, every family of names, and back, bit by bit."""

import argparse
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
from vl_ltr_jax.models.port.tensor_files import TensorFileError, read_tensors
from worlds.clip_oracle import hugging_face_clip, openai_clip, relative_error
from worlds.golden import GOLDEN, load

LGR = GOLDEN / "train5" / "lgr_start.safetensors"


def save_hugging_face(directory, dtype=torch.float32, **options):
    hugging_face_clip().to(dtype).save_pretrained(directory, **options)
    (directory / "merges.txt").write_text("#version: 0.2\n")
    return directory


def state_of(module):
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def assert_same(actual, expected):
    """Asserts that two trees have the same names and bits."""
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"max_shard_size": "200KB"}])
def test_hugging_face_comes_back_byte_for_byte(tmp_path, dtype, options):
    """Breaks when a tensor is left transposed twice, cast through another dtype, or
    when config.json is written again."""
    one_file = save_hugging_face(tmp_path / "one_file", dtype)
    source = save_hugging_face(tmp_path / "source", dtype, **options)
    output = convert.convert(str(source), tmp_path / "output", to="hf")
    files, expected = (
        {path.name: path.read_bytes() for path in directory.iterdir()}
        for directory in (output, one_file)
    )
    assert files == expected
    _, variables = clip_files.load_clip(source)
    for leaf in jax.tree.leaves(variables):
        assert type(leaf) is np.ndarray and leaf.dtype == np.float32


def test_a_lost_shard_is_refused(tmp_path):
    shards = save_hugging_face(tmp_path / "shards", max_shard_size="200KB")
    first, lost, *_ = sorted(shards.glob("*.safetensors"))
    lost.unlink()
    with pytest.raises(TensorFileError, match=lost.name):
        clip_files.load_clip(shards)
    shutil.copy(first, lost)
    with pytest.raises(TensorFileError, match="index.json"):
        clip_files.load_clip(shards)


@pytest.mark.parametrize("backbone", ["ViT-tiny", "RN-tiny"])
def test_openais_own_module(tmp_path, backbone):
    """Features of their model in ours, and the same state dict written.

    Broken by attention pooling without the mean, a stem of another stride, heads of
    another width, the projection transposed, positions by columns.
    """
    config = PRESETS[backbone]
    theirs = openai_clip(config)
    save_file(state_of(theirs), tmp_path / "theirs.safetensors")
    again, variables = clip_files.load_clip(
        tmp_path / "theirs.safetensors", activation="quick_gelu"
    )
    assert again == config
    rng = np.random.default_rng(0)
    size, end = config.vision.image_size, config.text.vocab_size - 1
    images = rng.standard_normal((2, size, size, 3), dtype=np.float32)
    tokens = rng.integers(0, end, (2, 77)).astype(np.int32)
    tokens[:, 20] = end
    image_emb, text_emb = jax.jit(Clip(config).apply)(variables, images, tokens)
    with torch.no_grad():
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        assert relative_error(image_emb, theirs.encode_image(pixels)) < 1e-5
        texts = theirs.encode_text(torch.from_numpy(tokens))
        assert relative_error(text_emb, texts) < 1e-5
    clip_files.save_clip(
        tmp_path, config, variables, dtype="float32", names=weights.OPENAI
    )
    written = load_file(tmp_path / "open_clip_model.safetensors")
    assert_same(written, state_of(theirs))


@pytest.fixture(scope="module")
def state():
    return openai_clip(PRESETS["ViT-tiny"]).state_dict()


@pytest.mark.parametrize(
    ("form", "dtype", "zipped"),
    [
        ("bare", torch.float32, True),
        ("VL-LTR", torch.float16, False),
        ("open_clip", torch.bfloat16, True),
    ],
)
def test_pytorch_checkpoints(tmp_path, state, form, dtype, zipped):
    """With the optimizer, command line and prefix of the authors' and open_clip's."""
    state = {name: tensor.to(dtype) for name, tensor in state.items()}
    prefixed = {f"module.{name}": tensor for name, tensor in state.items()}
    content = {
        "bare": state,
        "open_clip": {"state_dict": prefixed, "name": "run"},
        "VL-LTR": {
            "model": prefixed,
            "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]},
            "random": torch.get_rng_state(),
            "args": argparse.Namespace(data_set="IMNET_LT", sizes=[1, 2]),
        },
    }[form]
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    arrays = read_tensors(path)
    dtypes = {array.dtype for array in arrays.values()}
    assert dtypes == {jnp.dtype(str(dtype).removeprefix("torch."))}
    assert_same(
        {name: array.astype(np.float32) for name, array in arrays.items()},
        {name: tensor.float().numpy() for name, tensor in state.items()},
    )


def test_openais_torchscript(tmp_path, state):
    """Half precision, and the sizes that OpenAI stored as buffers."""
    sizes = {"input_resolution": 32, "context_length": 77, "vocab_size": 4096}
    root = torch.nn.Module()  # modules that only hold the tensors
    buffers = {name: torch.tensor(size) for name, size in sizes.items()}
    for name, tensor in ({n: t.half() for n, t in state.items()} | buffers).items():
        owner = root
        *path, leaf = name.split(".")
        for part in path:
            if not hasattr(owner, part):
                owner.add_module(part, torch.nn.Module())
            owner = getattr(owner, part)
        owner.register_buffer(leaf, tensor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(root), tmp_path / "ViT-tiny.pt")
    config, variables = clip_files.load_clip(tmp_path / "ViT-tiny.pt")
    assert config == PRESETS["ViT-tiny"]
    tensors = weights.to_tensors(variables, weights.OPENAI)
    assert_same(tensors, {n: t.half().float().numpy() for n, t in state.items()})


@pytest.mark.parametrize(
    ("content", "size"),
    [
        ({"epoch": 3}, None),
        ({"model": {}, "args": os.system}, None),
        ({"weight": torch.ones(999)}, 2000),
    ],
    ids=["no weights", "code", "cut"],
)
def test_an_unfit_pytorch_file_is_refused(tmp_path, content, size):
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(TensorFileError, match=path.name):
        convert.convert(str(path), tmp_path / "output", to="openai")
    assert list(tmp_path.iterdir()) == [path]


def test_pytorch_files_need_pytorch(tmp_path, state, monkeypatch):
    torch.save(state, tmp_path / "checkpoint.pth")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(TensorFileError, match="checkpoint.pth"):
        clip_files.load_clip(tmp_path / "checkpoint.pth")


def test_every_key_of_the_authors_six_models_has_its_place():
    """Names and shapes, both ways."""
    keys = load("fullsize/state_dict_shapes.json")
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
        unused = len(theirs.keys() - ours.keys())
        assert unused == (55 if "r50" in name else 0) + ("LGR" in name)


def test_authors_lgr_from_its_state_dict():
    """Logits of the first step. Broken by Wq or Wk untransposed, by padding unseen."""
    released, golden = vl_ltr_files.load(LGR), load("train5/lgr_hard.npz")
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
    anchors = jnp.asarray(recognizer.anchors), jnp.asarray(recognizer.padding)
    logits = head.apply({"params": recognizer.params}, features, *anchors)
    for branch, name in zip(logits, ("logits0", "logits1"), strict=True):
        assert relative_error(branch, golden[f"step0/{name}"]) < 1e-4


def test_lgr_comes_back_bit_for_bit(tmp_path):
    output = convert.convert(str(LGR), tmp_path / "output", to="vl_ltr")
    before, after = load_file(LGR), load_file(output / convert.LGR_FILE)
    bias = "text_block.attn.norm1k.bias"  # without effect; ours has no bias
    assert before.pop(bias).shape == after.pop(bias).shape
    assert_same(after, before)
    assert "text_block.attn.wk.weight" in listing.inspect(str(LGR))
    with pytest.raises(convert.PortError, match="--to=hf"):
        convert.convert(str(LGR), tmp_path / "other", to="hf")
    with pytest.raises(ValueError, match="init.vl_ltr"):
        clip_files.load_clip(LGR)


@pytest.mark.parametrize("name", ["text_block.attn.wq.weight", "text_embeddings"])
def test_a_tensor_that_an_lgr_lacks_is_listed(tmp_path, name):
    tensors = load_file(LGR)
    del tensors[name]
    save_file(tensors, tmp_path / "lgr.safetensors")
    with pytest.raises(weights.WeightMismatchError, match=name):
        vl_ltr_files.load(tmp_path / "lgr.safetensors")


def test_command_line(tmp_path, capsys):
    source, output = save_hugging_face(tmp_path / "source"), str(tmp_path / "output")
    port.main(["inspect", str(source)])
    assert "visual/proj/kernel" in capsys.readouterr().out
    port.main(["convert", str(source), output, "--to", "hf", "--image_size", "48"])
    assert clip_files.find_clip(output).config.vision.image_size == 48
    for arguments, name in (
        (["convert", str(source), output, "--to", "openai"], output),
        (["convert", str(source), str(tmp_path / "x"), "--to", "vl_ltr"], "--to"),
    ):
        assert port.main(arguments) == 2
        assert name in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["output", "source"]
