"""Pickles that would take for ever, or memory without end, are told before."""

import argparse
import collections
import io
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch

from vl_ltr_jax.models.port import pickle_scan
from vl_ltr_jax.models.port.tensor_files import TensorFileError, read_tensors
from worlds import data_damage as damage

DOUBLED = b"q\x00h\x00\x86"  # (x, x) of whatever is last on the stack
DEEP = b")" + 60 * DOUBLED
BOMBS = {
    "key": b"}" + DEEP + b"K\x01s",
    "keys": b"}(" + DEEP + b"K\x01u",
    "element": b"c__builtin__\nset\n](" + DEEP + b"e\x85R",
    "pair": b"ccollections\nOrderedDict\n](](" + DEEP + b"K\x01ee\x85R",
    "state": b"ccollections\nOrderedDict\n)R](](" + DEEP + b"K\x01eeb",
    "name": b"(X\x07\0\0\0storageK\x01]K\x02K\x03tQ",
    "wide": b")" + 8 * (b"q\x00(" + b"h\x00" * 99 + b"t"),
    "shown": b"]K\x01a)R",
    "list that grows later": b"]q\x01]q\x02h\x01ah\x01K\x01a",
    "same key": b"(" + b"K\x01" * 3000 + b"tq\x00" + b"}h\x00K\x01s" * 20_000,
    "bytes": b"c__builtin__\nbytearray\nJ\x00\xca\x9a\x3b\x85R" * 5,
    "storage": b"ctorch\nFloatStorage\nJ\x00\xca\x9a\x3b\x85R",
    "slow text": b"c_codecs\nencode\nX\x01\0\0\0aX\x08\0\0\0punycode\x86R",
}


def archive(path, content):
    with zipfile.ZipFile(path, "w") as file:
        records = {"data.pkl": content, "version": b"3\n", "byteorder": b"little"}
        for name, data in records.items():
            file.writestr(f"archive/{name}", data)


def old(path, content):
    """As PyTorch wrote them before its archives: pickles one after another."""
    marks = (torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {})
    before = b"".join(pickle.dumps(mark, protocol=2) for mark in marks)
    path.write_bytes(before + content + pickle.dumps([], protocol=2))


@pytest.mark.parametrize("write", [archive, old])
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_unopened(tmp_path, monkeypatch, write, name):
    """Broken by: `torch.load`, which takes for ever or gigabytes for most of them."""
    monkeypatch.setattr(torch, "load", lambda *given, **options: pytest.fail("opened"))
    path = tmp_path / "checkpoint.pth"
    write(path, b"\x80\x02" + BOMBS[name] + b".")
    with damage.no_hang(), pytest.raises(TensorFileError) as raised:
        read_tensors(path)
    words = {"bytes": "bytearray", "storage": "torch.FloatStorage"}
    words |= {"slow text": "_codecs.encode"}
    if name in words:
        assert f"(a call of {words[name]}" in str(raised.value).replace("builtins.", "")
        assert "Nothing in it was run" in str(raised.value)
    else:
        assert f"{path}: refused, because its pickle " in str(raised.value)


def test_the_record_is_looked_at_that_pytorch_opens(tmp_path, monkeypatch):
    """Of two directories, one at the end and one where the archive says that it is."""
    monkeypatch.setattr(torch, "load", lambda *given, **options: pytest.fail("opened"))
    content = b"\x80\x02" + BOMBS["key"] + b"."
    archive(tmp_path / "bomb", content)
    archive(tmp_path / "sound", b"\x80\x02}.".ljust(len(content), b"\0"))
    bomb, sound = ((tmp_path / name).read_bytes() for name in ("bomb", "sound"))
    directory = sound.index(b"PK\x01\x02")
    size, place = struct.unpack("<II", bomb[-10:-2])
    # The last directory is as long as that of the bomb, and begins elsewhere.
    end = sound[-22:-10] + struct.pack("<IIH", size, place, 0)
    assert len(sound) - 22 - directory == size
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(bomb[:-22] + sound[:-22] + end)
    reader = torch._C.PyTorchFileReader(io.BytesIO(path.read_bytes()))
    assert b"K\x01s" in reader.get_record("data.pkl")
    with zipfile.ZipFile(path) as file:
        assert file.read("archive/data.pkl").startswith(b"\x80\x02}.")
    with pytest.raises(TensorFileError, match="the same parts again"):
        read_tensors(path)


@pytest.mark.parametrize("new", [True, False])
def test_what_training_keeps_beside_the_weights_is_let_through(tmp_path, new):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5, 5])
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "args": argparse.Namespace(lr=0.1, name="x" * 100_000, sizes=[1, 2], by={}),
        "counts": collections.Counter("aab"),
        "random": torch.get_rng_state(),
        "plain": [
            b"abc" * 999,
            {1, "a"},
            1j,
            None,
            True,
            tuple(range(9999)),
            {(1,): 2},
        ],
        "torch": [torch.float16, torch.Size([1, 2]), torch.device("cpu")],
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path, _use_new_zipfile_serialization=new)
    found = read_tensors(path)
    assert found.keys() == content["model"].keys()
    np.testing.assert_array_equal(found["0.weight"], model[0].weight.detach().numpy())


def test_an_old_list_of_pairs_is_let_through():
    """So Python 2 wrote the weights of its day."""
    pairs = b"ccollections\nOrderedDict\n](](U\x01aK\x01e](U\x01bK\x02ee\x85R"
    file = io.BytesIO(b"\x80\x02" + pairs + b".rest")
    pickle_scan.check(file, lambda name: name == "collections.OrderedDict")
    assert file.read() == b"rest"
