"""A pickle in the place of any file is not run.

JAX's cache of compiled programs is JAX's own: who can write it can run code.
"""

import contextlib
import io
import pathlib
import pickle
import warnings
import zipfile

import numpy as np
import pytest
import torch

from damage.readers import CASES, READERS
from vl_ltr_jax.models.port.tensor_files import TensorFileError, read_tensors
from vl_ltr_jax.runtime.errors import UserError


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


def bare(trace):
    return pickle.dumps(Payload(trace), protocol=2)


def array(trace):
    objects, file = np.empty(3, object), io.BytesIO()
    objects[:] = Payload(trace)
    np.save(file, objects, allow_pickle=True)
    return file.getvalue()


def archive(trace):
    """A zip archive as PyTorch writes them."""
    file = io.BytesIO()
    content = {"data.pkl": bare(trace), "version": b"3\n", "byteorder": b"little"}
    with zipfile.ZipFile(file, "w") as members:
        for name, data in content.items():
            members.writestr(f"archive/{name}", data)
    return file.getvalue()


@pytest.mark.parametrize(("name", "pattern"), CASES)
def test_a_planted_pickle_is_not_run(tmp_path, trace, name, pattern):
    reader, folder = READERS[name], tmp_path / "files"
    folder.mkdir()
    reader.write(folder)
    file = next(path for path in folder.glob(pattern) if path.is_file())
    for plant in (bare, array, archive):
        file.unlink(missing_ok=True)
        file.write_bytes(plant(trace))
        with contextlib.suppress(UserError):
            reader.open(folder, file)


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


def test_code_of_torchscript_is_not_run(tmp_path, trace):
    path = tmp_path / "model.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Writes(str(trace))).save(path)
        torch.jit.load(path)
    assert trace.exists()  # PyTorch runs it
    trace.unlink()
    with pytest.raises(TensorFileError, match="model.pt"):
        read_tensors(path)
