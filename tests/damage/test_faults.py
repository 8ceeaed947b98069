"""Faults that a person makes, or a disk: each is refused, and the message names it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

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


def remove(path):
    path.unlink()


def write(text):
    return lambda path: path.write_text(text)


def cut(size):
    return lambda path: path.write_bytes(path.read_bytes()[:size])


def row(number, text):
    def make(path):
        rows = path.read_text().splitlines()
        rows[number - 1] = text
        path.write_text("\n".join(rows) + "\n")

    return make


def replace(old, new):
    def make(path):
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return make


def key(name, value):
    """Sets a key of JSON; a dot leads into a section."""

    def make(path):
        content = json.loads(path.read_text())
        *sections, last = name.split(".")
        owner = content
        for section in sections:
            owner = owner[section]
        owner[last] = value
        path.write_text(json.dumps(content))

    return make


def tensors(**changes: Any):
    """Sets tensors, or takes them out (None)."""

    def make(path):
        arrays = load_file(path)
        for name, value in changes.items():
            name = name.replace("__", ".")
            arrays.pop(name, None)
            if value is not None:
                arrays[name] = np.asarray(value)
        save_file(arrays, path)

    return make


def saved(value):
    return lambda path: torch.save(value, path)


LIST, TRAIN5 = "world_train.txt", ("world_train.txt:5",)
CARD = "saved/recognizer.json"
FAULTS = (
    Fault("list", LIST, row(5, "images/acorn/gone.jpg 1"), (*TRAIN5, "gone.jpg")),
    Fault("list", LIST, row(5, "images/acorn/train_1.jpg 12"), (*TRAIN5, "12")),
    Fault("list", LIST, row(5, "images/acorn/train_1.jpg -1"), (*TRAIN5, "-1")),
    Fault("list", LIST, row(5, "images/acorn/train_1.jpg"), TRAIN5),
    Fault("list", LIST, row(5, "images/acorn/train_1.jpg one"), (*TRAIN5, "one")),
    Fault("list", LIST, row(5, "../../../etc/passwd 1"), (*TRAIN5, "passwd")),
    Fault("list", LIST, row(5, "/etc/passwd 1"), (*TRAIN5, "passwd")),
    Fault("list", LIST, row(5, "images/acorn 1"), TRAIN5),
    Fault("list", "world_val.txt", remove),
    Fault("list", "labels.txt", row(3, "acorn 2"), ("labels.txt:3", "acorn")),
    Fault("labels", "labels.txt", row(3, "acorn 2"), ("labels.txt:3", "acorn")),
    Fault("texts", "wiki/desc_1.txt", remove),
    Fault("texts", "wiki/desc_1.txt", lambda path: path.write_bytes(b"\xff\xff")),
    Fault("inat18", "train2018.json", write('{"images": [')),
    Fault("inat18", "train2018.json", key("annotations", [])),
    Fault("images", "jpeg", cut(200)),
    Fault("images", "jpeg", write("<!DOCTYPE html><html>404</html>")),
    Fault("images", "png", write("")),
    Fault("clip", "model.safetensors", cut(1000)),
    Fault(
        "clip",
        "model.safetensors",
        tensors(logit_scale=None, logit_scales=1.0),
        ("logit_scale", "logit_scales"),
    ),
    Fault("clip", "model.safetensors", tensors(logit_scale=np.nan), ("logit_scale",)),
    Fault("clip", "model.safetensors", tensors(logit_scale=3), ("logit_scale",)),
    Fault("clip", "config.json", key("text_config.vocab_size", 2**62)),
    Fault("clip", "config.json", key("text_config.num_hidden_layers", 2**31)),
    Fault(
        "shards", "model.safetensors.index.json", replace('"model-0.safetensors"', "3")
    ),
    Fault("torch", "new.pth", file_damage.flip),
    Fault("torch", "new.pth", saved({"a": torch.eye(3).to_sparse()})),
    Fault("torch", "new.pth", saved({"a": torch.ones(2).to(torch.float8_e4m3fn)})),
    Fault("torch", "new.pth", saved({3: torch.ones(1)})),
    Fault("vocabulary", "merges.txt", cut(-9)),
    Fault("vocabulary", "vocab.json", remove),
    Fault("stage", "embed/settings.json", remove),
    Fault("stage", "embed/settings.json", write("[]")),
    Fault("stage", "embed/settings.json", key("seed", 2), ("seed",)),
    Fault("stage", "embed/artifact.json", write("{}")),
    Fault("stage", "embed/artifact.json", key("seconds", 2.5)),
    Fault("stage", "embed/rows.npy", file_damage.flip),
    Fault("recognizer", "saved/recognizer.safetensors", file_damage.flip),
    Fault("recognizer", "saved/merges.txt", file_damage.flip),
    Fault("recognizer", CARD, key("visual_weight", 7), ("recognizer.json",)),
    *(
        Fault("run", "anchors/sentences.json", write(text))
        for text in ("{}", "[3]", '[["a", 1]]', '["red"]', "[")
    ),
    Fault("results", "results.json", replace('"top1": 40.0', '"top1": "40"')),
    Fault("results", "results.json", replace('"top1": 40.0', '"top1": 1e999')),
    Fault("results", "results.json", replace("30.0", "130.0")),
    Fault("results", "results.json", replace('"few": 12.5', '"fwe": 1')),
    Fault("results", "results.json", replace('"images_seen": 9', '"images_seen": 9.5')),
    Fault("results", "results.json", replace('"num_classes": 2', '"num_classes": 3')),
    Fault("results", "evaluate/per_class_test.csv", replace("3,2", "3,4")),
    Fault("program", "arrays.safetensors", tensors(bias=[1.0, 2.0, 3.0])),
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
