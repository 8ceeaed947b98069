"""The programs that a run compiles, stage by stage."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from vl_ltr_jax.method import anss
from vl_ltr_jax.preflight.inputs import PlannedRun
from vl_ltr_jax.run import embedding, feature_views
from vl_ltr_jax.run.head_training import TrainingStage
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.stages import anchors, evaluate, pipeline
from vl_ltr_jax.train import flops
from vl_ltr_jax.train import stage as training


class Program(NamedTuple):
    """One program of a run.

    Attributes:
      name: in words.
      compile: for the devices of the run.
      trains: True for a training step, which accumulation and the like change.
    """

    name: str
    compile: Callable[[], flops.Counted]
    trains: bool = False


def of_stage(run: PlannedRun, name: str) -> Iterator[Program]:
    """Yields the programs of a stage; of training steps, the largest first.

    To be called, like :attr:`Program.compile`, under `mesh.describing`.
    """
    stage = pipeline.stages_of(run.config)[name]
    if name == "pretrain" and run.config.pretrain.distillation != "none":
        yield from _texts(run, "teacher's texts")
    if name == "embed":
        towers = run.replicate(run.towers())
        yield _program(run, "images", run.encode_image, towers, _pixels(run))
        yield from _texts(run, "texts")
    elif name == "anchors":
        yield _selection(run)
    elif name == "evaluate":
        yield _evaluation(run)
    elif isinstance(stage, TrainingStage):
        if name != "pretrain" and getattr(run.config, name).feature_views:
            towers = run.finetuned_towers() if name == "classifier" else run.towers()
            yield _views(run, towers)
        yield from _steps(run, stage.build(run))


def _steps(run: PlannedRun, job: training.Job) -> Iterator[Program]:
    state, shardings = training.first_state(
        job.variables, job.optimizer, run.mesh, run.config.mesh.fsdp
    )
    step = job.compiled(job.frozen(), shardings, run.mesh, run.config)
    for batch in reversed(job.batch_shapes()):
        rows = f", {batch['tokens'].shape[1]} rows of text" if "tokens" in batch else ""
        images = " on features" if "features" in batch else ""
        compiled = functools.partial(step.compile, state, batch)
        yield Program(f"step{images}{rows}", compiled, trains=True)


def _program(run: PlannedRun, name: str, function: Any, *args: Any) -> Program:
    jitted = function if hasattr(function, "trace") else jax.jit(function)
    return Program(name, lambda: flops.compile(jitted, run.mesh.size, *args))


def _texts(run: PlannedRun, name: str) -> Iterator[Program]:
    """Yields the shortest and the longest of the corpus's compiled lengths."""
    longest, size = run.inputs.tokens.shape[1], run.config.evaluate.batch_size
    towers = run.replicate(run.towers())
    for length in sorted({longest, min(embedding.LENGTH_BUCKET, longest)}):
        tokens = meshes.described_rows(run.mesh, (size, length), np.int32)
        title = f"{name}, {length} tokens"
        yield _program(run, title, run.encode_text, towers, tokens)


def _pixels(run: PlannedRun) -> jax.ShapeDtypeStruct:
    side = run.config.model.image_size
    shape = (run.config.evaluate.batch_size, side, side, 3)
    return meshes.described_rows(run.mesh, shape, np.uint8)


def _views(run: PlannedRun, towers: dict[str, Any]) -> Program:
    params = {name: p for name, p in towers["params"].items() if name != "text"}
    return _program(
        run,
        "cached views",
        lambda *args: feature_views.encode(run, *args),
        run.place({**towers, "params": params}),
        *(np.int32(0), np.int32(0), _pixels(run)),
    )


def _selection(run: PlannedRun) -> Program:
    data, section = run.inputs.data, run.config.anchors
    split = data.train if section.images == "train" else data.val
    indices = anss.cap_images_per_class(split.labels, section.max_images_per_class)
    width, sentences = run.inputs.clip_config.embed_dim, len(run.inputs.tokens)
    size = min(anchors.SENTENCES_PER_CALL * run.mesh.shape["model"], sentences)

    def split_over(axis: str, rows: int) -> tuple[Any, Any]:
        embeddings = np.broadcast_to(np.float32(0), (rows, width))
        labels = np.broadcast_to(np.int32(0), (rows,))
        return (
            meshes.shard_rows(run.mesh, embeddings, axis),
            meshes.shard_rows(run.mesh, labels, axis, fill=-1),
        )

    return _program(
        run,
        "scores of sentences",
        anss.compiled(run.inputs.num_classes, run.mesh),
        *split_over("model", size),
        *split_over("data", len(indices)),
        np.float32(0),
    )


def _evaluation(run: PlannedRun) -> Program:
    count, frozen = evaluate.counting(run, run.config.evaluate)
    size = run.config.evaluate.batch_size
    batch = {
        "image": _pixels(run),
        "label": meshes.described_rows(run.mesh, (size,), np.int32),
        "mask": meshes.described_rows(run.mesh, (size,), np.bool_),
    }
    return _program(run, "scores of all heads", count, frozen, batch)
