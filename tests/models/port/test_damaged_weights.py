"""Damaged files of models: a message that names the file, or what is in it."""

import functools
import json
import warnings

import jax
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from vl_ltr_jax.data.text.tokenizer import Tokenizer
from vl_ltr_jax.data.text.vocabulary import write_tokenizer
from vl_ltr_jax.models.clip import ClipConfig, TextConfig, VisionConfig, variable_shapes
from vl_ltr_jax.models.port import clip_files, vl_ltr_files
from vl_ltr_jax.models.port.names import OPENAI, to_tensors
from vl_ltr_jax.models.port.tensor_files import read_shapes, read_tensors
from worlds.file_damage import (
    damaged_bytes,
    damaged_json,
    damaged_safetensors,
    examples,
    outcome,
)

# Of a few kilobytes; OpenAI's names need heads of width 64.
SMALL = ClipConfig(VisionConfig("vit", 4, 4, 1, 1, 2), TextConfig(4, 1, 1, 4, 9), 4)
WIDE = ClipConfig(VisionConfig("vit", 2, 64, 1, 1, 2), TextConfig(64, 1, 1, 4, 9), 2)
MERGES = [("t", "h"), ("th", "e</w>"), ("i", "n"), ("in", "g</w>")]
SENTENCE = "The thing's café, 12 <|endoftext|>"


def variables(config):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape, np.float32),
        variable_shapes(config),
    )


@pytest.fixture(scope="module", autouse=True)
def laid_out_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clip_files, "variable_shapes", functools.cache(variable_shapes))
        yield


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A directory with a CLIP under Hugging Face's names."""
    directory = tmp_path_factory.mktemp("small")
    clip_files.save_clip(directory, SMALL, variables(SMALL))
    return directory


@pytest.fixture(scope="module")
def tensors():
    """A CLIP's under OpenAI's names."""
    return to_tensors(variables(WIDE), OPENAI, np.float16)


def check_tensors(path, sizes=None):
    """What a file gives, whole arrays, whose shapes can be had without them."""
    found = outcome(lambda: read_tensors(path), path)
    shapes = outcome(lambda: read_shapes(path), path)
    if found is None:
        return
    assert {name: array.shape for name, array in found.items()} == shapes
    size = sum(np.array(array).nbytes for array in found.values())
    assert size <= path.stat().st_size
    for array in found.values():
        assert type(array) is np.ndarray


def check_clip(source, named):
    found = outcome(lambda: clip_files.load_clip(source), named)
    if found is not None:
        config, loaded = found
        shapes = jax.tree.map(lambda leaf: leaf.shape, variable_shapes(config))
        assert shapes == jax.tree.map(np.shape, loaded)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(loaded))


@examples(150)
@given(st.data())
def test_safetensors(small, tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    valid = (small / "model.safetensors").read_bytes()
    path.write_bytes(data.draw(damaged_safetensors(valid)))
    check_tensors(path)


@examples(40)
@given(st.data())
def test_a_clip_whose_tensors_are_damaged(tensors, tmp_path_factory, data):
    """Sizes are told from the shapes, which may be any."""
    path = tmp_path_factory.getbasetemp() / "clip.safetensors"
    save_file(tensors, path)
    path.write_bytes(data.draw(damaged_safetensors(path.read_bytes())))
    check_clip(path, path)
    outcome(lambda: vl_ltr_files.load(path), path)


@examples(60)
@given(st.data())
def test_config_json(small, data):
    path = small / "config.json"
    valid = path.read_bytes()
    try:
        path.write_bytes(data.draw(damaged_json(valid)))
        check_clip(small, small)
    finally:
        path.write_bytes(valid)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sharded")
    weight_map = {}
    for part in range(2):
        file = f"model-{part}.safetensors"
        mine = {f"{part}.{n}": np.full(n, part, np.float32) for n in (1, 2)}
        save_file(mine, directory / file)
        weight_map |= dict.fromkeys(mine, file)
    index = directory / "model.safetensors.index.json"
    content = {"metadata": {"total_size": 24}, "weight_map": weight_map}
    index.write_text(json.dumps(content))
    return index


@examples(80)
@given(st.data())
def test_indices_of_shards(sharded, data):
    valid = sharded.read_bytes()
    try:
        sharded.write_bytes(data.draw(damaged_json(valid)))
        found = outcome(lambda: read_tensors(sharded), sharded)
        for name, array in (found or {}).items():
            np.testing.assert_array_equal(array, float(name[0]))
    finally:
        sharded.write_bytes(valid)


class Modules(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(3.0))
        self.inner = torch.nn.Linear(2, 3).half()
        self.register_buffer("vocab_size", torch.tensor(9))

    def forward(self, x):
        return x * self.weight + self.inner.bias


@pytest.fixture(scope="module")
def pytorch(tmp_path_factory):
    """Bytes of a checkpoint, of one as old PyTorch wrote it, and of TorchScript."""
    directory = tmp_path_factory.mktemp("pytorch")
    state = {"model": Modules().state_dict(), "epoch": 3}
    torch.save(state, directory / "new.pth")
    torch.save(state, directory / "old.pth", _use_new_zipfile_serialization=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Modules()).save(directory / "script.pt")
    return {path.stem: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("kind", ["new", "old", "script"])
@examples(80)
@given(st.data())
def test_pytorch_files(pytorch, tmp_path_factory, kind, data):
    path = tmp_path_factory.getbasetemp() / f"{kind}.pth"
    path.write_bytes(pytorch[kind])
    valid = read_tensors(path)
    path.write_bytes(data.draw(damaged_bytes(pytorch[kind])))
    found = outcome(lambda: read_tensors(path), path)
    if found is not None and kind != "old":  # only archives have checksums
        assert found.keys() == valid.keys()
        jax.tree.map(np.testing.assert_array_equal, found, valid)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    """Bytes of a tokenizer's files, in both layouts."""
    directory = tmp_path_factory.mktemp("vocabulary")
    write_tokenizer(directory, MERGES, vocab_size=514 + len(MERGES))
    files = {n: (directory / n).read_bytes() for n in ("vocab.json", "merges.txt")}
    model = {
        "type": "BPE",
        "end_of_word_suffix": "</w>",
        "vocab": json.loads(files["vocab.json"]),
        "merges": MERGES,
    }
    return {**files, "tokenizer.json": json.dumps({"model": model}).encode()}


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "tokenizer.json"])
@examples(70)
@given(st.data())
def test_tokenizer_files(vocabulary, tmp_path_factory, name, data):
    directory = tmp_path_factory.getbasetemp() / f"of_{name}"
    directory.mkdir(exist_ok=True)
    for other in {"vocab.json", "merges.txt", name}:
        (directory / other).write_bytes(vocabulary[other])
    damaged = damaged_bytes if name == "merges.txt" else damaged_json
    (directory / name).write_bytes(data.draw(damaged(vocabulary[name])))
    tokenizer = outcome(lambda: Tokenizer.from_directory(directory), directory)
    if tokenizer is not None:
        [ids] = tokenizer.encode([SENTENCE])
        assert ids[0] == tokenizer.vocab_size - 2 or name != "merges.txt"
        assert ids.max() == tokenizer.vocab_size - 1
