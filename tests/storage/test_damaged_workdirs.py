"""Damaged files of runs and of what they leave: a message, or what was written."""

import contextlib
import functools
import json
import os
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st
from jax import export
from safetensors.numpy import save_file

import vl_ltr_jax
from vl_ltr_jax.comparison import tables
from vl_ltr_jax.config import settings
from vl_ltr_jax.config.build import default_config, resolve
from vl_ltr_jax.data.text import token_cache
from vl_ltr_jax.data.text.tokenizer import Tokenizer, trim
from vl_ltr_jax.data.text.vocabulary import write_tokenizer
from vl_ltr_jax.recognizer import files, stablehlo, validate
from vl_ltr_jax.run import depends
from vl_ltr_jax.run.run import anchor_sentences
from vl_ltr_jax.storage import atomic
from vl_ltr_jax.storage.artifact import (
    Artifact,
    ArtifactError,
    holds_array,
    read_array,
    write_array,
)
from worlds import small_recognizer
from worlds.file_damage import (
    NUMBERS,
    damaged_bytes,
    damaged_json,
    damaged_safetensors,
    examples,
    outcome,
)

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)
SUMMARY = {"seconds": 1.5, "versions": {"jax": "1"}, "predicted_by": "zero_shot"}
NAMES = list(small_recognizer.NAMES)
PICTURE = np.full((20, 20, 3), 99, np.uint8)


@pytest.fixture(scope="module", autouse=True)
def sound_parts_once():
    """What is not damaged here is read, and laid out, once."""
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (validate, "variable_shapes"),
            (validate, "head_shapes"),
        ):
            patch.setattr(owner, name, functools.cache(getattr(owner, name)))
        yield


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """A finished stage."""
    directory = epath.Path(tmp_path_factory.mktemp("run")) / "evaluate"
    made = Artifact(
        directory,
        {"seed": 1, "pretrain.epochs": 2, "inputs": "ab"},
        matters=depends.matters,
    )
    made.begin()
    made.save_arrays(rows=ROWS)
    made.finish(SUMMARY)
    return made


def test_a_flipped_bit_of_an_array_is_seen(stage):
    """Breaks when an array is taken without a look at its checksum.

    Or when a stage of before there were any is refused.
    """
    path = stage.directory / "rows.npy"
    valid = path.read_bytes()
    try:
        path.write_bytes(valid[:-9] + bytes([valid[-9] ^ 1]) + valid[-8:])
        with pytest.raises(ArtifactError, match="rows.npy cannot be read .it is not"):
            stage.load_array("rows")
        assert not holds_array(path, ROWS.shape)
        np.save(path, ROWS)
        np.testing.assert_array_equal(stage.load_array("rows"), ROWS)
        assert not holds_array(path, ROWS.shape), "what can be made again is"
    finally:
        path.write_bytes(valid)
    assert holds_array(path, ROWS.shape)
    np.testing.assert_array_equal(stage.load_array("rows"), ROWS)


@pytest.mark.parametrize("left", ["checkpoints", "views"])
def test_a_stage_without_settings_is_not_gone_on_with(tmp_path, left):
    """Breaks when what is left of a stage is taken with whatever settings come."""
    stage = Artifact(epath.Path(tmp_path / "finetune"), {"seed": 1})
    stage.check()
    (stage.directory / left).mkdir(parents=True)
    with pytest.raises(ArtifactError, match="settings.json cannot be read .*Move "):
        stage.check()
    stage.begin()
    stage.check()


@pytest.mark.parametrize("name", ["settings.json", "artifact.json"])
@examples(60)
@given(st.data())
def test_json_of_stages(stage, name, data):
    path = stage.directory / name
    valid = path.read_bytes()
    try:
        path.write_bytes(data.draw(damaged_json(valid)))
        outcome(stage.check, stage.directory.parent)
        found = outcome(stage.summary, path)
        if found is not None and b'"crc32": ' in path.read_bytes():
            assert found == SUMMARY
    finally:
        path.write_bytes(valid)


@st.composite
def damaged_npy(draw, valid):
    """Of a file of NumPy's: its bytes, or another shape, dtype or length of header."""
    if draw(st.booleans()):
        return draw(damaged_bytes(valid))
    size = struct.unpack("<H", valid[8:10])[0]
    header, rest = valid[10 : 10 + size], valid[10 + size :]
    numbers = draw(st.lists(st.sampled_from((*NUMBERS, -1)), max_size=40))
    shapes = [f"({n}, {n})".encode() for n in numbers] + [str(numbers).encode()]
    header = header.replace(b"(4, 3)", draw(st.sampled_from(shapes)))
    dtypes = (b"'<f4'", b"'|O'", b"'<U9'", b"'|V0'", b"[('a', '<f4')]", b"'<M8[s]'")
    header = header.replace(b"'<f4'", draw(st.sampled_from(dtypes)))
    length = draw(st.sampled_from((len(header), len(header), size, 0, 9, 2**16 - 1)))
    return valid[:8] + struct.pack("<H", length) + header + rest


@examples(150)
@given(st.data())
def test_arrays_of_stages(stage, data):
    path = stage.directory / "rows.npy"
    valid = path.read_bytes()
    try:
        path.write_bytes(data.draw(damaged_npy(valid)))
        found = outcome(lambda: stage.load_array("rows"), path)
        np.testing.assert_array_equal(ROWS if found is None else found, ROWS)
        with contextlib.suppress(OSError, ValueError):  # as files without checksums
            found = read_array(path)
            assert found.nbytes <= os.path.getsize(path)
            assert found.dtype != object
        assert holds_array(path, (4, 3)) in (True, False)
    finally:
        path.write_bytes(valid)


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """A tokenizer, sentences, their ids, and a file of these."""
    directory = tmp_path_factory.mktemp("cached")
    write_tokenizer(directory / "clip", [("a", "b")], vocab_size=515)
    tokenizer = Tokenizer.from_directory(directory / "clip")
    sentences = ["ab", "a b ab", "", "cab"]
    ids = trim(tokenizer.encode(sentences, 16))
    encode = functools.partial(
        token_cache.encode, tokenizer, sentences, 16, directory / "cache"
    )
    return directory / "cache", encode, ids


@examples(100)
@given(st.data())
def test_cached_token_ids(cached, data):
    directory, encode, ids = cached
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_cache, "SMALLEST", 1)
        encode()
        [path] = directory.iterdir()
        valid = path.read_bytes()
        path.write_bytes(data.draw(damaged_bytes(valid)))
        np.testing.assert_array_equal(encode(), ids)
        assert [path] == list(directory.iterdir())


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory):
    """A recognizer and where it was saved."""
    directory = tmp_path_factory.mktemp("recognizer") / "saved"
    made = small_recognizer.make("linear")
    made.reference = np.ones((2, made.card.clip_config.embed_dim), np.float32)
    made.save(directory)
    return made, directory


@pytest.mark.parametrize("name", [files.CARD, files.WEIGHTS])
@examples(60)
@given(st.data())
def test_saved_recognizers(recognizer, name, data):
    made, directory = recognizer
    path = directory / name
    valid = path.read_bytes()
    damaged = damaged_json if name == files.CARD else damaged_safetensors
    try:
        changed = data.draw(damaged(valid))
        path.write_bytes(changed)
        found = outcome(lambda: vl_ltr_jax.load(directory), directory)
        assert found is None or name == files.CARD or changed == valid
        if found is not None:
            assert found.card.num_trained == 3 == len(found.class_names)
    finally:
        path.write_bytes(valid)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A finished run without any training, and arrays of its own."""
    directory = epath.Path(tmp_path_factory.mktemp("finished"))
    config = default_config()
    config.model.backbone, config.init.clip = "ViT-tiny", "tiny_clip"
    config.pretrain.epochs = config.finetune.epochs = 0
    (directory / "config.json").write_text(settings.to_json(resolve(config)))
    (directory / "classes.json").write_text(json.dumps({"names": NAMES}))
    evaluated = Artifact(directory / "evaluate", {})
    evaluated.begin()
    rng = np.random.default_rng(0)
    width = small_recognizer.make("linear").card.clip_config.embed_dim
    for name, rows in (("val_features", 4), ("class_texts", 3)):
        array = rng.standard_normal((rows, width), np.float32)
        write_array(evaluated.directory / f"{name}.npy", array)
    evaluated.finish(SUMMARY)
    (directory / "anchors").mkdir()
    sentences = json.dumps([["It is red."], [], ["Moss.", "Wet moss."]])
    (directory / "anchors" / "sentences.json").write_text(sentences)
    return directory


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "classes.json",
        "anchors/sentences.json",
        "evaluate/artifact.json",
        "evaluate/class_texts.npy",
        "evaluate/val_features.npy",
    ],
)
@examples(20)
@given(st.data())
def test_finished_runs(workdir, name, data):
    path = workdir / name
    valid = path.read_bytes()
    damaged = damaged_json if name.endswith("json") else damaged_npy
    try:
        path.write_bytes(data.draw(damaged(valid)))
        found = outcome(lambda: vl_ltr_jax.load(workdir), workdir)
        if found is not None:
            assert len(found.class_names) == len(found.card.sentences) == 3
        outcome(lambda: anchor_sentences(workdir), workdir)
    finally:
        path.write_bytes(valid)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A run's results, as comparisons read them."""
    directory = epath.Path(tmp_path_factory.mktemp("results"))
    shots = {"many": 50.0, "medium": None, "few": 12.5}
    both = {"standard": shots, "vl_ltr": shots}
    head = {"top1": 40.0, "class_mean": 30.0, "shots": both}
    stages = {"pretrain": {"seconds": 2.0}, "evaluate": {"seconds": 1.0}}
    content = {
        "test": {"lgr": head},
        "data": {"num_classes": 2},
        "cost": {"images_seen": 9, "stages": stages},
    }
    (directory / "results.json").write_text(json.dumps(content))
    (directory / "evaluate").mkdir()
    (directory / "evaluate" / "per_class_test.csv").write_text(
        'head,class,images,top1\nlgr,"a, b",3,2\nlgr,c,0,0\n'
    )
    return directory


@pytest.mark.parametrize("name", ["results.json", "evaluate/per_class_test.csv"])
@examples(60)
@given(st.data())
def test_results_of_runs(results, name, data):
    path = results / name
    valid = path.read_bytes()
    damaged = damaged_json if name.endswith("json") else damaged_bytes
    try:
        path.write_bytes(data.draw(damaged(valid)))
        line = outcome(lambda: tables.line_of("vl_ltr", 1, results), results)
        if line is not None:
            tables.markdown([line], "world", "ViT-tiny")
            tables.csv_of([line], "ViT-tiny")
    finally:
        path.write_bytes(valid)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A small program, as `write_program` leaves it."""
    directory = tmp_path_factory.mktemp("exported")
    arrays = {"bias": np.ones(3, np.float32)}
    double = jax.jit(lambda arrays, images: {"features": images + arrays["bias"]})
    program = export.export(double)(arrays, jnp.zeros(3)).serialize()
    (directory / stablehlo.PROGRAM).write_bytes(program)
    save_file(arrays, directory / stablehlo.ARRAYS)
    names = (stablehlo.PROGRAM, stablehlo.ARRAYS)
    content = {"crc32": {name: atomic.crc32(directory / name) for name in names}}
    (directory / stablehlo.DESCRIPTION).write_text(json.dumps(content))
    return directory


@pytest.mark.parametrize(
    "name", [stablehlo.PROGRAM, stablehlo.ARRAYS, stablehlo.DESCRIPTION]
)
@examples(40)
@given(st.data())
def test_exported_programs(exported, name, data):
    path = exported / name
    valid = path.read_bytes()
    damaged = {
        stablehlo.PROGRAM: damaged_bytes,
        stablehlo.ARRAYS: damaged_safetensors,
        stablehlo.DESCRIPTION: damaged_json,
    }[name]
    try:
        changed = data.draw(damaged(valid))
        path.write_bytes(changed)
        found = outcome(lambda: stablehlo.load_exported(exported), exported)
        assert found is None or name == stablehlo.DESCRIPTION or changed == valid
    finally:
        path.write_bytes(valid)
