"""Faults that damaged files once were: each has one message now."""

import io
import json
import os
import re
import resource
import shutil
import struct
import zipfile

import numpy as np
import pytest
import torch
from etils import epath
from safetensors.numpy import load_file, save_file

import vl_ltr_jax
from vl_ltr_jax.comparison import tables
from vl_ltr_jax.config import build as configs
from vl_ltr_jax.data.text import token_cache
from vl_ltr_jax.data.text.tokenizer import Tokenizer
from vl_ltr_jax.data.text.vocabulary import read_vocabulary, write_tokenizer
from vl_ltr_jax.models.port import clip_files, hub
from vl_ltr_jax.models.port.sizes import from_config_json, from_shapes
from vl_ltr_jax.models.port.tensor_files import (
    TensorFileError,
    read_shapes,
    read_tensors,
)
from vl_ltr_jax.recognizer import stablehlo
from vl_ltr_jax.run.run import anchor_sentences
from vl_ltr_jax.storage import strict_json
from vl_ltr_jax.storage.artifact import Artifact, ArtifactError
from worlds import small_recognizer
from worlds.data_damage import no_hang

DEEP = "[" * 100_000
SHALLOW = "[" * 150 + "]" * 150


def flip(path, place=-1):
    """One bit, in the last byte if no other is named."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (DEEP, "nested more than 100 deep"),
        (SHALLOW, "nested more than 100 deep"),
        (b"\xff{}", "invalid start byte"),
        ('{"a": "\\ud800"}', "surrogates not allowed"),
        ("9" * 5000, "4300 digits"),
        ("{", "Expecting"),
    ],
)
def test_whatever_is_wrong_with_json_is_a_value_error(text, words):
    with pytest.raises(ValueError, match=words):
        strict_json.parse(text)
    assert strict_json.parse('"\\ud83d\\ude00"') == "😀"


@pytest.mark.parametrize("text", [DEEP, "9" * 5000, SHALLOW])
def test_json_without_end_is_named(tmp_path, text):
    for name in ("config.json", "tokenizer.json", "model.safetensors.index.json"):
        (tmp_path / name).write_text(text)
    save_file({"text_model.x": np.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="/config.json: not JSON"):
        clip_files.find_clip(tmp_path)
    with pytest.raises(ValueError, match="/tokenizer.json: "):
        read_vocabulary(tmp_path)
    with pytest.raises(TensorFileError, match="index.json: not an index"):
        read_tensors(tmp_path / "model.safetensors.index.json")
    with pytest.raises(configs.ConfigError, match="no configuration"):
        configs.from_json(text)


def test_sizes_beyond_any_model_are_refused_at_once():
    """Laying out a model of as many layers would take hours."""
    for key, value in (("num_hidden_layers", 2**31), ("vocab_size", 2**62)):
        content = {"model_type": "clip", "text_config": {key: value}}
        with pytest.raises(ValueError, match=f"x.json: text_config.{key} is {value}; "):
            from_config_json(content, "x.json")
    names = (f"visual.transformer.resblocks.{n}.ln_1.weight" for n in range(300))
    shapes = dict.fromkeys(names, (64,)) | {
        "visual.proj": (64, 2),
        "visual.conv1.weight": (64, 3, 2, 2),
        "visual.positional_embedding": (2, 64),
    }
    with pytest.raises(ValueError, match=r"x.pt: .* has 300 layers"):
        from_shapes(shapes, "x.pt")


def header(tensors, data=b""):
    content = json.dumps(tensors).encode()
    return struct.pack("<Q", len(content)) + content + data


def test_a_tensor_without_numbers_has_no_shape_of_any_size(tmp_path):
    path = tmp_path / "x.safetensors"
    empty = {"dtype": "F32", "shape": [2**40, 0], "data_offsets": [0, 0]}
    path.write_bytes(header({"visual.proj": empty}))
    for read in (read_shapes, read_tensors):
        with pytest.raises(TensorFileError, match=f"{path}: visual.proj .* no number"):
            read(path)


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "F6_E2M3"])
def test_numbers_of_few_bits_are_named(tmp_path, dtype):
    path = tmp_path / "x.safetensors"
    size = 3 if dtype == "F6_E2M3" else 2 if dtype == "F4" else 4
    tensor = {"dtype": dtype, "shape": [4], "data_offsets": [0, size]}
    path.write_bytes(header({"visual.proj": tensor}, bytes(size)))
    words = f"{path}: visual.proj is of the dtype .*{dtype}, and read are F64, .*; save"
    for read in (read_shapes, read_tensors):
        with pytest.raises(TensorFileError, match=words):
            read(path)


def test_a_tensor_of_a_hundred_dimensions_is_named(tmp_path):
    path = tmp_path / "x.safetensors"
    tensor = {"dtype": "F32", "shape": [1] * 100, "data_offsets": [0, 4]}
    path.write_bytes(header({"visual.proj": tensor}, bytes(4)))
    with pytest.raises(TensorFileError, match=f"{path}: visual.proj cannot be .*100"):
        read_tensors(path)


@pytest.mark.parametrize("file", ["", ".", "a" * 999, "../b.safetensors", "b.bin", 3])
def test_an_index_names_files_beside_it(tmp_path, file):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a": file}}))
    with pytest.raises(TensorFileError, match=f"{path}: not an index of shards"):
        read_tensors(path)


def test_a_flipped_bit_in_a_checkpoint_of_pytorch_is_seen(tmp_path):
    """PyTorch itself reads another number without a word."""
    path = tmp_path / "checkpoint.pth"
    numbers = torch.arange(100.0)
    torch.save({"a": numbers}, path)
    flip(path, path.read_bytes().find(numbers.numpy().tobytes()) + 200)
    assert torch.load(path, weights_only=True)["a"].shape == (100,)
    with pytest.raises(TensorFileError, match="its record .*data/0 is not what"):
        read_tensors(path)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.eye(3).to_sparse(),
        torch.ones(1).expand(10**10),
        torch.empty(3, device="meta"),
        torch.zeros(0, 2**40),
        torch.ones(2).to(torch.float8_e4m3fn),
    ],
    ids=["sparse", "repeated", "meta", "empty", "float8"],
)
def test_tensors_that_are_no_arrays_are_refused(tmp_path, tensor):
    torch.save({"a": tensor}, tmp_path / "x.pth")
    with pytest.raises(TensorFileError, match="x.pth: not a whole PyTorch file"):
        read_tensors(tmp_path / "x.pth")
    torch.save({3: torch.ones(1)}, tmp_path / "x.pth")
    with pytest.raises(TensorFileError, match="x.pth: holds no state dict"):
        read_tensors(tmp_path / "x.pth")


CLAIMED = 10**10


def test_a_header_that_claims_ten_gigabytes_takes_none(tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path = tmp_path / "x.safetensors"
    claims = {"dtype": "U8", "shape": [CLAIMED], "data_offsets": [0, CLAIMED]}
    for content in (header({"a": claims}, b"\0" * 9), struct.pack("<Q", CLAIMED)):
        path.write_bytes(content)
        with pytest.raises(TensorFileError, match=f"{path}: not a whole"):
            read_tensors(path)
    left = Artifact(epath.Path(tmp_path), {})
    array = io.BytesIO()
    np.save(array, np.zeros(9, np.uint8))
    content = array.getvalue().replace(b"(9,)", f"({CLAIMED},)".encode())
    (tmp_path / "rows.npy").write_bytes(content)
    with pytest.raises(ArtifactError, match="rows.npy cannot be read"):
        left.load_array("rows")
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\0" * 10**7)
    with pytest.raises(TensorFileError, match="claims 10,000,000 bytes"):
        read_tensors(tmp_path / "x.pth")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB
    assert grown < 2**20


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved") / "recognizer"
    small_recognizer.make().save(directory)
    return directory


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"visual_weight": float("nan")}, "visual_weight is nan, not from 0 to 1"),
        ({"visual_weight": 7}, "visual_weight is 7"),
        ({"language_logit_scale": 1e308}, r"language_logit_scale is 1e\+308"),
        ({"context_length": 10**9}, "context_length is 1000000000, not 2 to 77"),
        ({"class_names": ["a", None, "c"]}, "None, which is no text"),
        ({"sentences": ["red", "blue", "green"]}, "of a class are a str"),
        ({"sentences": 3}, "the sentences are a int"),
    ],
)
def test_a_card_that_says_what_cannot_be_is_refused(saved, changed, words):
    path = saved / "recognizer.json"
    valid = path.read_text()
    try:
        path.write_text(json.dumps(json.loads(valid) | changed))
        with pytest.raises(ArtifactError, match=f"{saved} holds no.*{words}"):
            vl_ltr_jax.load(saved)
    finally:
        path.write_text(valid)


@pytest.mark.parametrize("name", ["recognizer.safetensors", "merges.txt", "vocab.json"])
def test_a_flipped_bit_in_a_saved_recognizer_is_seen(saved, name):
    flip(saved / name)
    with pytest.raises(ArtifactError, match=f"{name} is not what was saved"):
        vl_ltr_jax.load(saved)
    flip(saved / name)
    vl_ltr_jax.load(saved)


@pytest.mark.parametrize("name", ["recognizer.safetensors", "merges.txt", "vocab.json"])
def test_a_pipe_in_a_saved_recognizer_is_not_waited_for(saved, tmp_path, name):
    shutil.copytree(saved, tmp_path / "copy")
    (tmp_path / "copy" / name).unlink()
    os.mkfifo(tmp_path / "copy" / name)
    with no_hang(), pytest.raises(ArtifactError, match=f"{name} is no file but a pipe"):
        vl_ltr_jax.load(tmp_path / "copy")


@pytest.mark.parametrize("target", ["/dev/zero", "pipe"])
def test_devices_and_pipes_are_no_descriptions(tmp_path, target):
    """Broken by: a card that is read, which takes for ever."""
    os.mkfifo(tmp_path / "pipe")
    for name, load in (
        ("recognizer.json", vl_ltr_jax.load),
        (stablehlo.DESCRIPTION, stablehlo.load_exported),
        (stablehlo.PROGRAM, stablehlo.load_exported),
    ):
        (tmp_path / name).symlink_to(target)
        words = f"{name} is no file but a pipe, device"
        with no_hang(), pytest.raises(ArtifactError, match=words):
            load(tmp_path)
        (tmp_path / name).unlink()


def test_arrays_of_no_recognizer_are_refused(saved, tmp_path):
    tensors = load_file(saved / "recognizer.safetensors")
    card = json.loads((saved / "recognizer.json").read_text())
    del card["crc32"]  # an older version's
    (tmp_path / "recognizer.json").write_text(json.dumps(card))
    padding = tensors["anchors/padding"]
    for changed, words in (
        ({"surprise": np.zeros(1)}, "surprise belongs to no recognizer"),
        ({"anchors/padding": padding.astype(np.uint8)}, "padding is of uint8"),
        ({"anchors/padding": padding[:, :0]}, "no table of classes and anchors"),
        ({"head/wq": np.ones_like(tensors["head/wq"], int)}, "head/wq is of int64"),
    ):
        save_file(tensors | changed, tmp_path / "recognizer.safetensors")
        with pytest.raises(ArtifactError, match=words):
            vl_ltr_jax.load(tmp_path)


def test_a_changed_summary_of_a_stage_is_seen(tmp_path):
    left = Artifact(epath.Path(tmp_path) / "embed", {})
    left.begin()
    told = {"seconds": 1.0, "versions": {}, "images_seen": 3, "counts": {1: (2, 3)}}
    left.finish(told)
    assert left.summary() == json.loads(json.dumps(told))
    path = left.directory / "artifact.json"
    path.write_text(path.read_text().replace('"images_seen": 3', '"images_seen": 4'))
    with pytest.raises(ArtifactError, match=f"{path} is not what was written. Move"):
        left.summary()


@pytest.mark.parametrize("text", ["{}", "[3]", '[["a", 1]]', DEEP, '["red"]', "["])
def test_damaged_anchor_sentences_are_named(tmp_path, text):
    path = tmp_path / "anchors" / "sentences.json"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ArtifactError, match=f"{path} cannot be read.*. Move"):
        anchor_sentences(epath.Path(tmp_path))


def test_a_flipped_bit_in_kept_token_ids_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(token_cache, "SMALLEST", 1)
    write_tokenizer(tmp_path, [], vocab_size=514)
    tokenizer = Tokenizer.from_directory(tmp_path)
    first = token_cache.encode(tokenizer, ["abc"], 8, tmp_path / "cache").copy()
    [path] = (tmp_path / "cache").iterdir()
    flip(path, -4 - first.nbytes + 2)  # of the first word
    again = token_cache.encode(tokenizer, ["abc"], 8, tmp_path / "cache")
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(
    "change",
    [
        ('"top1": 40.0', '"top1": "40"'),
        ('"top1": 40.0', '"top1": 1e999'),
        ('"class_mean": 30.0', '"class_mean": 130.0'),
        ('"few": 1', '"fwe": 1'),
        ('"stages": {}', '"stages": []'),
        ('"images_seen": 9', '"images_seen": 9.5'),
        ('"num_classes": 1', '"num_classes": 2'),
        ("lgr,3,2", "lgr,3,4"),
        ("lgr,3,2", 'lgr,3,"2'),
    ],
)
def test_damaged_results_are_named(tmp_path, change):
    shots = {"many": 50.0, "medium": None, "few": 1}
    both = {"standard": shots, "vl_ltr": shots}
    head = {"top1": 40.0, "class_mean": 30.0, "shots": both}
    content = {
        "test": {"lgr": head},
        "data": {"num_classes": 1},
        "cost": {"images_seen": 9, "stages": {}},
    }
    table = "head,images,top1\nlgr,3,2\n"
    (tmp_path / "evaluate").mkdir()
    for old, new in (("", ""), change):
        text = json.dumps(content).replace(old, new)
        (tmp_path / "results.json").write_text(text)
        rows = table.replace(old, new) + "x" * 200_000 * ('"2' in new)
        (tmp_path / "evaluate" / "per_class_test.csv").write_text(rows)
        if old:
            with pytest.raises(ArtifactError, match=f"results in {tmp_path} cannot be"):
                tables.line_of("vl_ltr", 0, epath.Path(tmp_path))
        else:
            tables.line_of("vl_ltr", 0, epath.Path(tmp_path))


def test_a_program_is_not_given_to_xla_unless_it_is_what_was_written(tmp_path):
    (tmp_path / stablehlo.PROGRAM).write_bytes(b"program")
    save_file({"a": np.zeros(1)}, tmp_path / stablehlo.ARRAYS)
    described = {"crc32": {stablehlo.PROGRAM: 1, stablehlo.ARRAYS: 2}}
    (tmp_path / stablehlo.DESCRIPTION).write_text(json.dumps(described))
    words = f"{tmp_path} holds no .*{stablehlo.PROGRAM} is not what was written"
    with pytest.raises(ArtifactError, match=words):
        stablehlo.load_exported(tmp_path)


def test_a_home_of_nobody_is_no_traceback():
    assert not hub.is_there_or_id("~nobody-here/clip")
    with pytest.raises(ValueError, match=re.escape("~nobody-here/clip: no CLIP")):
        clip_files.find_weights("~nobody-here/clip")
    assert not hub.is_there_or_id("a" * 5000)
