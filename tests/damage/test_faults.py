"""Faults that a person makes, or a disk: each is refused, and the message names it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from damage.readers import READERS
from vl_ltr_jax.runtime.errors import UserError
from worlds import file_damage


class Fault(NamedTuple):
    """A fault in a file of a reader, and words that the message must have."""

    reader: str
    file: str
    make: Callable[[Path], object]
    words: tuple[str, ...] = ()


def write(text):
    return lambda path: path.write_text(text)


def cut(size):
    return lambda path: path.write_bytes(path.read_bytes()[:size])


def replace(old, new):
    def make(path):
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return make


def json_of(change):
    def make(path):
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return make


def tensors(change):
    def make(path):
        arrays = load_file(path)
        change(arrays)
        save_file(arrays, path)

    return make


def saved(value):
    return lambda path: torch.save(value, path)


LINE = "images/acorn/train_1.jpg 1"
LINES = ("images/acorn/gone.jpg 1", "images/acorn/train_1.jpg 12", "/etc/passwd 1")
FAULTS = (
    *(
        Fault("list", "world_train.txt", replace(LINE, line), ("world_train.txt:5",))
        for line in (*LINES, "images/acorn/train_1.jpg one")
    ),
    Fault("list", "world_val.txt", Path.unlink),
    Fault("labels", "labels.txt", replace("violin", "acorn"), ("labels.txt:3",)),
    Fault("texts", "wiki/desc_1.txt", Path.unlink),
    Fault("texts", "wiki/desc_1.txt", lambda path: path.write_bytes(b"\xff\xff")),
    Fault("inat18", "train2018.json", write('{"images": [')),
    Fault("inat18", "train2018.json", json_of(lambda data: data.pop("annotations"))),
    Fault("images", "jpeg", cut(200)),
    Fault("images", "jpeg", write("<!DOCTYPE html><html>404</html>")),
    Fault("clip", "model.safetensors", cut(1000)),
    *(
        Fault("clip", "model.safetensors", tensors(change), ("logit_scale",))
        for change in (
            lambda arrays: arrays.pop("logit_scale"),
            lambda arrays: arrays.update(logit_scale=np.array(np.nan, np.float32)),
            lambda arrays: arrays.update(logit_scale=np.array(3)),
        )
    ),
    Fault(
        "clip",
        "config.json",
        json_of(lambda sizes: sizes["text_config"].update(vocab_size=2**62)),
    ),
    Fault("torch", "new.pth", file_damage.flip),
    Fault("torch", "new.pth", saved({"a": torch.eye(3).to_sparse()})),
    Fault("vocabulary", "merges.txt", cut(-9)),
    Fault("vocabulary", "vocab.json", Path.unlink),
    Fault("stage", "embed/settings.json", Path.unlink),
    Fault("stage", "embed/settings.json", replace('"seed": 1', '"seed": 2'), ("seed",)),
    Fault("stage", "embed/artifact.json", write("{}")),
    Fault("stage", "embed/rows.npy", file_damage.flip),
    Fault("recognizer", "saved/recognizer.safetensors", file_damage.flip),
    Fault("recognizer", "saved/merges.txt", file_damage.flip),
    Fault(
        "recognizer",
        "saved/recognizer.json",
        replace('"visual_weight": 0.5', '"visual_weight": 7'),
    ),
    Fault("run", "anchors/sentences.json", write('[["a", 1]]')),
    Fault("results", "results.json", replace('"top1": 40.0', '"top1": "40"')),
    Fault("results", "results.json", replace("30.0", "130.0")),
    Fault("results", "results.json", replace('"few": 12.5', '"fwe": 1')),
    Fault("results", "results.json", replace('"num_classes": 2', '"num_classes": 3')),
    Fault("results", "evaluate/per_class_test.csv", replace("3,2", "3,4")),
    Fault("program", "arrays.safetensors", file_damage.flip),
    Fault("program", "description.json", replace("crc32", "crc64")),
)


@pytest.mark.parametrize(
    "fault", FAULTS, ids=[f"{n}-{f.reader}-{f.file}" for n, f in enumerate(FAULTS)]
)
def test_a_fault_is_refused_by_name(tmp_path, fault):
    reader, folder = READERS[fault.reader], tmp_path / "files"
    folder.mkdir()
    reader.write(folder)
    file = folder / fault.file
    fault.make(file)
    with pytest.raises(UserError) as raised:
        reader.open(folder, file)
    message = str(raised.value)
    assert file.name in message or str(folder) in message
    assert all(word in message for word in fault.words)
