"""A damaged file is read as something valid, or the error names it."""

import functools
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from damage.readers import CASES, READERS
from vl_ltr_jax.runtime.errors import UserError
from worlds.file_damage import DAMAGES, examples, flip


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Folders of sound files, and what is in them, by the name of the reader."""

    @functools.cache
    def write(name):
        reader, folder = READERS[name], tmp_path_factory.mktemp("sound") / "files"
        folder.mkdir()
        reader.write(folder)
        return folder

    @functools.cache
    def value(name, file):
        return READERS[name].open(write(name), file)

    return write, value


def open_or_refuse(reader, folder, file):
    """Returns the value, or None if the reader raises an error that names the file."""
    try:
        return reader.open(folder, file)
    except UserError as error:
        message, parent = str(error), str(file.parent.relative_to(folder))
        names = {file.name, str(folder), parent} - {"."}
        assert any(name in message for name in names), message
        assert len(message) < 20_000
        return None


@pytest.mark.parametrize(("name", "pattern"), CASES)
def test_sound_files_are_read(sound, name, pattern):
    write, value = sound
    files = list(write(name).glob(pattern))
    assert files
    for file in files:
        READERS[name].check(value(name, file), value(name, file))


@pytest.mark.parametrize(("name", "pattern"), CASES)
@examples(30)
@given(data=st.data())
def test_a_damaged_file_is_read_or_named(sound, name, pattern, data):
    write, value = sound
    reader, folder = READERS[name], write(name)
    files = sorted(path for path in folder.glob(pattern) if path.is_file())
    file = data.draw(st.sampled_from(files))
    damage = DAMAGES[reader.files[pattern]](file.read_bytes())
    content = data.draw(st.one_of(damage, damage, damage, damage, st.none()))
    copy = folder.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy, copy_function=os.link)
    damaged = copy / file.relative_to(folder)
    damaged.unlink()
    if content is not None:
        damaged.write_bytes(content)
    opened = open_or_refuse(reader, copy, damaged)
    if opened is not None:
        reader.check(opened, None if file.name == "float tiff" else value(name, file))


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


def scale(value):
    return lambda path: save_file({**load_file(path), "logit_scale": value}, path)


NAN = np.array(np.nan, np.float32)
SPARSE = {"a": torch.eye(3).to_sparse()}
FAULTS = (
    ("clip", "model.safetensors", cut(1000)),
    ("clip", "model.safetensors", scale(NAN)),
    ("clip", "model.safetensors", scale(np.array(3))),
    ("clip", "config.json", replace('_size": 9', '_size": 4611686018427387904')),
    ("torch", "new.pth", flip),
    ("torch", "new.pth", lambda path: torch.save(SPARSE, path)),
    ("vocabulary", "merges.txt", cut(-9)),
    ("vocabulary", "vocab.json", Path.unlink),
    ("stage", "embed/settings.json", Path.unlink),
    ("stage", "embed/settings.json", replace('"seed": 1', '"seed": 2')),
    ("stage", "embed/artifact.json", write("{}")),
    ("stage", "embed/rows.npy", flip),
    ("recognizer", "saved/recognizer.safetensors", flip),
    ("recognizer", "saved/merges.txt", flip),
    (
        "recognizer",
        "saved/recognizer.json",
        replace('"visual_weight": 0.5', '"visual_weight": 7'),
    ),
    ("run", "anchors/sentences.json", write('[["a", 1]]')),
    ("results", "results.json", replace('"top1": 40.0', '"top1": "40"')),
    ("results", "results.json", replace("30.0", "130.0")),
    ("results", "results.json", replace('"few": 12.5', '"fwe": 1')),
    ("results", "results.json", replace('"num_classes": 2', '"num_classes": 3')),
    ("results", "evaluate/per_class_test.csv", replace("3,2", "3,4")),
    ("program", "arrays.safetensors", flip),
    ("program", "description.json", replace("crc32", "crc64")),
)


@pytest.mark.parametrize(("reader", "name", "make"), FAULTS)
def test_a_fault_is_refused_by_name(tmp_path, reader, name, make):
    reader, folder = READERS[reader], tmp_path / "files"
    folder.mkdir()
    reader.write(folder)
    file = folder / name
    make(file)
    with pytest.raises(UserError) as raised:
        reader.open(folder, file)
    message = str(raised.value)
    assert file.name in message or str(folder) in message
