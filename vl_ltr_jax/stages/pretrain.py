"""The frozen CLIP of pre-training: its image tower, and all its sentence embeddings.

A sentence has one embedding for the whole of pre-training, so each is made once, kept
under `workdir/teacher/`, and looked up by id in the step: the text tower never runs
there. The table is split over all devices; no device holds more than its rows.
"""

import hashlib
from typing import Any

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils
from jaxtyping import Float

from vl_ltr_jax.run import head_training
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.storage.artifact import (
    holds_array,
    read_array,
    write_array,
)
from vl_ltr_jax.train import optim, pretrain, row_probe
from vl_ltr_jax.train import stage as training


def frozen(run: Run) -> dict[str, Any]:
    """What the pre-training step reads of the frozen CLIP, on the devices.

    Returns:
      `towers`, its variables without the text tower, and `texts` [S, D], its embeddings
      of every sentence; see :func:`pretrain.make_step`.
    """
    clip = run.initial_towers()
    texts = meshes.shard_rows(run.mesh, sentence_embeddings(run, clip))
    params = {name: p for name, p in clip["params"].items() if name != "text"}
    return {"towers": run.place({**clip, "params": params}), "texts": texts}


def sentence_embeddings(run: Run, clip: dict[str, Any]) -> Float[np.ndarray, "S D"]:
    """Embeddings of the corpus, from the workdir where they lie there already."""
    path = run.workdir / "teacher" / f"sentences_{cache_key(run, clip)}.npy"
    shape = (len(run.inputs.tokens), run.inputs.clip_config.embed_dim)
    # One process looks: file systems may show the others an older state.
    if multihost_utils.broadcast_one_to_all(np.asarray(holds_array(path, shape))):
        return read_array(path)
    embeddings = run.embed_sentences(run.replicate(clip), "pretrain: frozen CLIP")
    if run.writes and jax.process_index() == 0:
        write_array(path, embeddings)
    return embeddings


def cache_key(run: Run, clip: dict[str, Any]) -> str:
    """Changes with the text tower, the sentences' tokens and the compute dtype."""
    found = hashlib.sha256(run.config.model.compute_dtype.encode())
    found.update(run.inputs.tokens.astype(np.int32).tobytes())
    for leaf in jax.tree.leaves(clip["params"]["text"]):
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()[:16]


def pretraining(run: Run) -> training.Job:
    """Towers trained on image-sentence pairs of the same class."""
    config, options = run.config, run.config.pretrain
    plan = head_training.plan_of(run, options)
    variables = run.initial_towers()

    def make_step(optimizer: optax.GradientTransformation) -> pretrain.Step:
        return pretrain.make_step(
            run.model,
            optimizer,
            plan.schedule,
            run.prepare,
            options,
            config.seed,
            run.mesh,
            accumulation_steps=config.mesh.accumulation_steps,
        )

    return training.Job(
        plan,
        make_step,
        optim.make_optimizer(
            variables["params"],
            schedule=plan.schedule,
            weight_decay=options.weight_decay,
        ),
        lambda: {} if options.distillation == "none" else frozen(run),
        variables,
        head_training.batches_of(run, options, with_text=True),
        run.artifact("pretrain").directory,
        row_probe.of_pairs(
            run.model,
            run.prepare,
            config.seed,
            run.mesh,
            accumulation_steps=config.mesh.accumulation_steps,
        ),
    )
