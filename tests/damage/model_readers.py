"""Readers of weights and tokenizers."""

import json
import warnings

import jax
import numpy as np
import torch
from safetensors.numpy import save_file

from damage.reader import Reader, equal
from vl_ltr_jax.data.text import token_cache
from vl_ltr_jax.data.text.tokenizer import Tokenizer
from vl_ltr_jax.data.text.vocabulary import write_tokenizer
from vl_ltr_jax.models.clip import ClipConfig, TextConfig, VisionConfig, variable_shapes
from vl_ltr_jax.models.port import clip_files, vl_ltr_files
from vl_ltr_jax.models.port.names import OPENAI, to_tensors
from vl_ltr_jax.models.port.tensor_files import read_shapes, read_tensors

# Of a few kilobytes; OpenAI's names need heads of width 64.
SMALL = ClipConfig(VisionConfig("vit", 4, 4, 1, 1, 2), TextConfig(4, 1, 1, 4, 9), 4)
WIDE = ClipConfig(VisionConfig("vit", 2, 64, 1, 1, 2), TextConfig(64, 1, 1, 4, 9), 2)
MERGES = [("t", "h"), ("th", "e</w>"), ("i", "n"), ("in", "g</w>")]


def variables(config):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape, np.float32),
        variable_shapes(config),
    )


def openai_tensors():
    return to_tensors(variables(WIDE), OPENAI, np.float16)


def open_tensors(folder, file):
    return read_tensors(file), read_shapes(file)


def check_tensors(value, sound):
    arrays, shapes = value
    assert {name: array.shape for name, array in arrays.items()} == shapes


def check_clip(value, sound):
    config, loaded = value
    shapes = jax.tree.map(lambda leaf: leaf.shape, variable_shapes(config))
    assert shapes == jax.tree.map(np.shape, loaded)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(loaded))


def write_shards(folder):
    weight_map = {}
    for part in range(2):
        arrays = {f"{part}.{n}": np.full(n, part, np.float32) for n in (1, 2)}
        save_file(arrays, folder / f"model-{part}.safetensors")
        weight_map |= dict.fromkeys(arrays, f"model-{part}.safetensors")
    content = {"metadata": {"total_size": 24}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


def check_shards(value, sound):
    for name, array in value[0].items():
        np.testing.assert_array_equal(array, float(name[0]))


class Modules(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(3.0))
        self.inner = torch.nn.Linear(2, 3).half()
        self.register_buffer("vocab_size", torch.tensor(9))

    def forward(self, x):
        return x * self.weight + self.inner.bias


def write_torch(folder):
    state = {"model": Modules().state_dict(), "epoch": 3}
    torch.save(state, folder / "new.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Modules()).save(folder / "script.pt")


def write_old_torch(folder):
    state = {"model": Modules().state_dict(), "epoch": 3}
    torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)


def write_released(folder):
    tensors = {name: torch.tensor(a) for name, a in openai_tensors().items()}
    torch.save({"model": tensors}, folder / "checkpoint.pth")


def write_vocabulary(folder):
    write_tokenizer(folder, MERGES, vocab_size=514 + len(MERGES))


def write_tokenizer_json(folder):
    write_vocabulary(folder)
    vocab = json.loads((folder / "vocab.json").read_bytes())
    model = {"type": "BPE", "end_of_word_suffix": "</w>"}
    model |= {"vocab": vocab, "merges": MERGES}
    (folder / "tokenizer.json").write_text(json.dumps({"model": model}))
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink()


def check_tokenizer(tokenizer, sound):
    [ids] = tokenizer.encode(["The thing's café, 12 <|endoftext|>"])
    assert ids.max() == tokenizer.vocab_size - 1


def tokenizer(*names, write):
    return Reader(
        write,
        lambda folder, file: Tokenizer.from_directory(folder),
        dict.fromkeys(names, "bytes"),
        check_tokenizer,
    )


def open_cache(folder, file):
    with_clip = Tokenizer.from_directory(folder / "clip")
    sentences = ["ab", "a b ab", "", "cab"] * 1000
    return token_cache.encode(with_clip, sentences, 16, folder / "cache").copy()


def write_cache(folder):
    write_tokenizer(folder / "clip", [("a", "b")], vocab_size=515)
    open_cache(folder, None)


MODEL_READERS = {
    "shards": Reader(
        write_shards,
        open_tensors,
        {"model.safetensors.index.json": "json"},
        check_shards,
    ),
    "clip": Reader(
        lambda folder: clip_files.save_clip(folder, SMALL, variables(SMALL)),
        lambda folder, file: clip_files.load_clip(folder),
        {"config.json": "json", "model.safetensors": "safetensors"},
        check_clip,
    ),
    "openai clip": Reader(
        lambda folder: save_file(openai_tensors(), folder / "clip.safetensors"),
        lambda folder, file: clip_files.load_clip(file, activation="gelu"),
        {"clip.safetensors": "safetensors"},
        check_clip,
    ),
    # Archives have checksums, files of old PyTorch have none.
    "torch": Reader(
        write_torch, lambda folder, file: read_tensors(file), {"*": "bytes"}, equal
    ),
    "old torch": Reader(write_old_torch, open_tensors, {"old.pth": "bytes"}),
    "released": Reader(
        write_released,
        lambda folder, file: vl_ltr_files.load(file).variables,
        {"checkpoint.pth": "bytes"},
        equal,
    ),
    "vocabulary": tokenizer("vocab.json", "merges.txt", write=write_vocabulary),
    "tokenizer": tokenizer("tokenizer.json", write=write_tokenizer_json),
    "token cache": Reader(write_cache, open_cache, {"cache/*": "bytes"}, equal),
}
