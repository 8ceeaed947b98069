"""Readers of weights and tokenizers."""

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
from vl_ltr_jax.models.port.tensor_files import read_tensors

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


def check_clip(value, sound):
    config, loaded = value
    shapes = jax.tree.map(lambda leaf: leaf.shape, variable_shapes(config))
    assert shapes == jax.tree.map(np.shape, loaded)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(loaded))


class Modules(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(3.0))
        self.inner = torch.nn.Linear(2, 3).half()
        self.register_buffer("vocab_size", torch.tensor(9))

    def forward(self, x):
        return x * self.weight + self.inner.bias


def write_torch(folder, new=True):
    state = {"model": Modules().state_dict(), "epoch": 3}
    name = "new.pth" if new else "old.pth"
    torch.save(state, folder / name, _use_new_zipfile_serialization=new)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Modules()).save(folder / "script.pt")


def write_released(folder):
    tensors = {name: torch.tensor(a) for name, a in openai_tensors().items()}
    torch.save({"model": tensors}, folder / "checkpoint.pth")


def check_tokenizer(tokenizer, sound):
    [ids] = tokenizer.encode(["The thing's café, 12 <|endoftext|>"])
    assert ids.max() == tokenizer.vocab_size - 1


def open_cache(folder, file):
    with_clip = Tokenizer.from_directory(folder / "clip")
    sentences = ["ab", "a b ab", "", "cab"] * 1000
    return token_cache.encode(with_clip, sentences, 16, folder / "cache").copy()


def write_cache(folder):
    write_tokenizer(folder / "clip", [("a", "b")], vocab_size=515)
    open_cache(folder, None)


MODEL_READERS = {
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
    "torch": Reader(
        write_torch, lambda folder, file: read_tensors(file), {"*": "bytes"}, equal
    ),
    # Archives have checksums, files of old PyTorch have none.
    "old torch": Reader(
        lambda folder: write_torch(folder, new=False),
        lambda folder, file: read_tensors(file),
        {"old.pth": "bytes"},
    ),
    "released": Reader(
        write_released,
        lambda folder, file: vl_ltr_files.load(file).variables,
        {"checkpoint.pth": "bytes"},
        equal,
    ),
    "vocabulary": Reader(
        lambda folder: write_tokenizer(folder, MERGES, vocab_size=514 + len(MERGES)),
        lambda folder, file: Tokenizer.from_directory(folder),
        {"vocab.json": "json", "merges.txt": "bytes"},
        check_tokenizer,
    ),
    "token cache": Reader(write_cache, open_cache, {"cache/*": "bytes"}, equal),
}
