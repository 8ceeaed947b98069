"""Wherever a file can be given, a pickle in it is not run.

JAX's cache of compiled programs is JAX's own: who can write it can run code.
"""

import io
import pathlib
import pickle
import warnings
import zipfile

import numpy as np
import pytest
import torch
from etils import epath

import vl_ltr_jax
from vl_ltr_jax.data.sources import tfds_labels
from vl_ltr_jax.data.text import token_cache
from vl_ltr_jax.data.text.tokenizer import Tokenizer
from vl_ltr_jax.data.text.vocabulary import write_tokenizer
from vl_ltr_jax.models.port import clip_files, vl_ltr_files
from vl_ltr_jax.models.port.tensor_files import TensorFileError, read_tensors
from vl_ltr_jax.recognizer import files, stablehlo
from vl_ltr_jax.storage.artifact import Artifact, holds_array
from worlds import small_recognizer


class Payload:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return pathlib.Path.touch, (self.trace,)


@pytest.fixture
def trace(tmp_path):
    """A file that no payload may make."""
    trace = tmp_path / "executed"
    pickle.loads(pickle.dumps(Payload(trace), protocol=2))
    assert trace.exists()  # a payload works
    trace.unlink()
    yield trace
    assert not trace.exists()


def objects(trace):
    array = np.empty(3, object)
    array[:] = Payload(trace)
    return array


def npy(trace):
    file = io.BytesIO()
    np.save(file, objects(trace), allow_pickle=True)
    return file.getvalue()


def npz(trace):
    file = io.BytesIO()
    np.savez(file, labels=objects(trace), names=objects(trace), key=objects(trace))
    return file.getvalue()


def bare(trace):
    return pickle.dumps(Payload(trace), protocol=2)


PLANTS = [npy, npz, bare]


def record(path, content):
    """A zip archive as PyTorch writes them."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(f"archive/{name}", data)


@pytest.mark.parametrize("name", ["checkpoint.pth", "ViT-B-16.pt", "model.bin"])
@pytest.mark.parametrize("scripted", [False, True])
def test_pytorchs_archives(tmp_path, trace, name, scripted):
    content = {"data.pkl": bare(trace), "version": b"3\n", "byteorder": b"little"}
    if scripted:
        content["constants.pkl"] = b"\x80\x02)."
    record(tmp_path / name, content)
    for load in (read_tensors, clip_files.load_clip, vl_ltr_files.load):
        with pytest.raises(TensorFileError, match=f"{name}: refused.*Nothing in it"):
            load(tmp_path / name)


@pytest.mark.parametrize("plant", PLANTS)
def test_pickles_of_old_pytorch(tmp_path, trace, plant):
    (tmp_path / "checkpoint.pth").write_bytes(plant(trace))
    with pytest.raises(TensorFileError, match=r"checkpoint.pth: (refused|not a whole)"):
        read_tensors(tmp_path / "checkpoint.pth")


class Writes(torch.nn.Module):
    """PyTorch's own reader runs `__setstate__`, where an archive may write files."""

    def __init__(self, path: str):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))
        self.path = path
        self.training = False

    @torch.jit.export
    def __getstate__(self):
        return self.weight, self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, str, bool]):
        torch.save(state[0], state[1])
        self.weight = state[0]
        self.path = state[1]
        self.training = state[2]

    def forward(self, x):
        return x


def test_code_of_torchscript(tmp_path, trace):
    path = tmp_path / "model.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Writes(str(trace))).save(path)
        torch.jit.load(path)
    assert trace.exists()  # it works where it is let
    trace.unlink()
    with pytest.raises(TensorFileError, match="model.pt: "):
        read_tensors(path)


@pytest.mark.parametrize("plant", PLANTS)
def test_arrays_of_stages(tmp_path, trace, plant):
    left = Artifact(epath.Path(tmp_path) / "embed", {})
    left.begin()
    path = left.directory / "sentences.npy"
    path.write_bytes(plant(trace))
    with pytest.raises(ValueError, match="sentences.npy cannot be read"):
        left.load_array("sentences")
    assert not holds_array(path, (3,))


@pytest.mark.parametrize("plant", PLANTS)
def test_token_ids(tmp_path, trace, plant, monkeypatch):
    monkeypatch.setattr(token_cache, "SMALLEST", 1)
    write_tokenizer(tmp_path, [], vocab_size=514)
    tokenizer = Tokenizer.from_directory(tmp_path)
    first = token_cache.encode(tokenizer, ["a"], 8, tmp_path / "cache")
    [path] = (tmp_path / "cache").iterdir()
    content = plant(trace)
    monkeypatch.setattr(token_cache.atomic, "crc32", lambda path: 0x2144DF1C)
    path.write_bytes(content)
    again = token_cache.encode(tokenizer, ["a"], 8, tmp_path / "cache")
    np.testing.assert_array_equal(first, again)
    assert path.read_bytes() != content


@pytest.mark.parametrize("plant", PLANTS)
def test_labels_kept_beside_records(tmp_path, trace, plant):
    path = epath.Path(tmp_path) / "labels.npz"
    path.write_bytes(plant(trace))
    assert tfds_labels._read(path, "key", 3) is None


@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("name", [files.CARD, files.WEIGHTS])
def test_saved_recognizers(tmp_path, trace, plant, name):
    small_recognizer.make("linear").save(tmp_path / "saved")
    (tmp_path / "saved" / name).write_bytes(plant(trace))
    with pytest.raises(ValueError, match="holds no recognizer that can be read"):
        vl_ltr_jax.load(tmp_path / "saved")


@pytest.mark.parametrize("plant", PLANTS)
def test_programs(tmp_path, trace, plant):
    for name in (stablehlo.PROGRAM, stablehlo.ARRAYS, stablehlo.DESCRIPTION):
        (tmp_path / name).write_bytes(plant(trace))
    with pytest.raises(ValueError, match="holds no exported program"):
        stablehlo.load_exported(tmp_path)
