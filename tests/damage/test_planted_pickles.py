"""A pickle in the place of any file is not run.

JAX's cache of compiled programs is JAX's own: who can write it can run code.
"""

import contextlib
import io
import pathlib
import pickle
import zipfile

import numpy as np
import pytest

from damage.readers import CASES, READERS
from vl_ltr_jax.runtime.errors import UserError


class Payload:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return pathlib.Path.touch, (self.trace,)


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
def test_a_planted_pickle_is_not_run(tmp_path, name, pattern):
    trace = tmp_path / "executed"
    pickle.loads(bare(trace))
    assert trace.exists()  # a payload works
    trace.unlink()
    reader, folder = READERS[name], tmp_path / "files"
    folder.mkdir()
    reader.write(folder)
    file = next(path for path in folder.glob(pattern) if path.is_file())
    for plant in (bare, array, archive):
        file.unlink(missing_ok=True)
        file.write_bytes(plant(trace))
        with contextlib.suppress(UserError):
            reader.open(folder, file)
    assert not trace.exists()
