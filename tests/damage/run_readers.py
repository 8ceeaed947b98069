"""Readers of what runs write, and of configurations."""

import json
import shutil
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax import export
from safetensors.numpy import save_file

import vl_ltr_jax
from damage.reader import Reader, equal
from vl_ltr_jax.checkpoint.manager import Checkpoints
from vl_ltr_jax.checkpoint.restore import load_params
from vl_ltr_jax.comparison import tables
from vl_ltr_jax.config import build as configs
from vl_ltr_jax.config import settings
from vl_ltr_jax.data.images.transforms import NORMALIZATIONS
from vl_ltr_jax.recognizer import files, stablehlo
from vl_ltr_jax.run.depends import settled
from vl_ltr_jax.storage import atomic
from vl_ltr_jax.storage.artifact import Artifact, write_array
from worlds import small_recognizer

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)
SUMMARY = {"seconds": 1.5, "versions": {"jax": "1"}, "predicted_by": "zero_shot"}


def stage(folder):
    return Artifact(epath.Path(folder) / "embed", {"seed": 1, "inputs": "ab"})


def write_stage(folder):
    stage(folder).begin()
    stage(folder).save_arrays(rows=ROWS)
    stage(folder).finish(SUMMARY)


def open_stage(folder, file):
    stage(folder).check()
    return stage(folder).summary(), stage(folder).load_array("rows")


@flax.struct.dataclass
class State:
    step: jax.Array
    params: Any


def state_at(step):
    # So many that most bytes of a checkpoint are theirs, and none can be compressed.
    kernel = np.random.default_rng(step).standard_normal((32, 32), np.float32)
    return State(jnp.int32(step), {"kernel": jnp.asarray(kernel)})


def write_checkpoints(folder):
    with Checkpoints(folder, every_steps=1) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state_at(step), {"step": step})


def open_checkpoints(folder, file):
    """Returns parameters; training must go on from one of the checkpoints in any case.

    A damaged one is moved aside then, so that this is done in a copy.
    """
    copy = folder.with_name("resumed")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    with Checkpoints(copy, every_steps=1) as checkpoints:
        state, meta = checkpoints.restore_latest(state_at(1))
    equal(state, state_at(meta["step"]))
    return load_params(folder)["params"]


def check_checkpoint(params, sound):
    step = 2 if np.array_equal(params["kernel"], state_at(2).params["kernel"]) else 1
    equal(params, state_at(step).params)


def write_recognizer(folder):
    small_recognizer.make().save(folder / "saved")


def check_recognizer(recognizer, sound):
    assert len(recognizer.class_names) == len(recognizer.card.sentences) == 3


def write_run(folder):
    """Writes a finished run without any training, and arrays of its own."""
    config = configs.default_config()
    config.model.backbone, config.init.clip = "ViT-tiny", "tiny_clip"
    config.pretrain.epochs = config.finetune.epochs = 0
    text = settings.to_json(settled(configs.resolve(config), None, "cpu"))
    (folder / "config.json").write_text(text)
    names = {"names": list(small_recognizer.NAMES)}
    (folder / "classes.json").write_text(json.dumps(names))
    mean, std = NORMALIZATIONS["clip"]
    facts = {"vision_activation": "gelu", "text_activation": "gelu"}
    facts["normalization"] = [list(mean), list(std)]
    (folder / "model.json").write_text(json.dumps(facts))
    evaluated = Artifact(epath.Path(folder) / "evaluate", {})
    evaluated.begin()
    rng = np.random.default_rng(0)
    width = small_recognizer.make("linear").card.clip_config.embed_dim
    for name, rows in (("val_features", 4), ("class_texts", 3)):
        array = rng.standard_normal((rows, width), np.float32)
        write_array(evaluated.directory / f"{name}.npy", array)
    evaluated.finish(SUMMARY)
    (folder / "anchors").mkdir()
    sentences = [["It is red."], [], ["Moss.", "Wet moss."]]
    (folder / "anchors" / "sentences.json").write_text(json.dumps(sentences))


def write_results(folder):
    shots = {"many": 50.0, "medium": None, "few": 12.5}
    rules = {"standard": shots, "vl_ltr": shots}
    head = {"top1": 40.0, "class_mean": 30.0, "shots": rules}
    costs = {"pretrain": {"seconds": 2.0}, "evaluate": {"seconds": 1.0}}
    content = {
        "test": {"lgr": head},
        "data": {"num_classes": 2},
        "cost": {"images_seen": 9, "stages": costs},
    }
    (folder / "results.json").write_text(json.dumps(content))
    (folder / "evaluate").mkdir()
    table = 'head,class,images,top1\nlgr,"a, b",3,2\nlgr,c,0,0\n'
    (folder / "evaluate" / "per_class_test.csv").write_text(table)


def check_results(row, sound):
    tables.markdown([row], "world", "ViT-tiny")
    tables.csv_of([row], "ViT-tiny")


def write_program(folder):
    """Writes a small program as `stablehlo.write_program` does."""
    arrays = {"bias": np.ones(3, np.float32)}
    add = jax.jit(lambda arrays, images: {"features": images + arrays["bias"]})
    program = export.export(add)(arrays, jnp.zeros(3)).serialize()
    (folder / stablehlo.PROGRAM).write_bytes(program)
    save_file(arrays, folder / stablehlo.ARRAYS)
    names = (stablehlo.PROGRAM, stablehlo.ARRAYS)
    content = {"crc32": {name: atomic.crc32(folder / name) for name in names}}
    (folder / stablehlo.DESCRIPTION).write_text(json.dumps(content))


RUN_READERS = {
    "stage": Reader(
        write_stage,
        open_stage,
        {"embed/*.json": "json", "embed/rows.npy": "bytes"},
        lambda value, sound: equal(value[1], sound[1]),
    ),
    "checkpoint": Reader(
        write_checkpoints, open_checkpoints, {"2/**/*": "bytes"}, check_checkpoint
    ),
    "recognizer": Reader(
        write_recognizer,
        lambda folder, file: vl_ltr_jax.load(folder / "saved"),
        {f"saved/{files.CARD}": "json", "saved/merges.txt": "bytes"}
        | {f"saved/{files.WEIGHTS}": "safetensors"},
        check_recognizer,
    ),
    "run": Reader(
        write_run,
        lambda folder, file: vl_ltr_jax.load(folder),
        {"*.json": "json", "anchors/sentences.json": "json"}
        | {"evaluate/artifact.json": "json", "evaluate/*.npy": "bytes"},
        check_recognizer,
    ),
    "results": Reader(
        write_results,
        lambda folder, file: tables.row_of("vl_ltr", 1, epath.Path(folder)),
        {"results.json": "json", "evaluate/per_class_test.csv": "bytes"},
        check_results,
    ),
    "program": Reader(
        write_program,
        lambda folder, file: stablehlo.load_exported(folder),
        {stablehlo.PROGRAM: "bytes", stablehlo.ARRAYS: "safetensors"}
        | {stablehlo.DESCRIPTION: "json"},
    ),
}
