"""Pre-training, and the frozen CLIP that teaches it.

A sentence has one embedding by the frozen CLIP in all of pre-training. Each is computed
once, kept under `workdir/teacher/`, and looked up by id in the step. The table is split
over all devices.
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
from vl_ltr_jax.storage.artifact import holds_array, read_array, write_array
from vl_ltr_jax.train import optim, pretrain, row_probe
from vl_ltr_jax.train import stage as training
from vl_ltr_jax.train.state import Step


def teacher(run: Run) -> pretrain.Teacher:
    """Places the frozen CLIP on the devices, without its text tower."""
    clip = run.initial_towers()
    texts = meshes.shard_rows(run.mesh, sentence_embeddings(run, clip))
    params = {name: p for name, p in clip["params"].items() if name != "text"}
    return pretrain.Teacher(run.place({**clip, "params": params}), texts)


def sentence_embeddings(run: Run, clip: dict[str, Any]) -> Float[np.ndarray, "S D"]:
    """Returns embeddings of the corpus, from the workdir if it has them."""
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
    """Returns a hash of the text tower, the tokens and the compute dtype."""
    digest = hashlib.sha256(run.config.model.compute_dtype.encode())
    digest.update(run.inputs.tokens.astype(np.int32).tobytes())
    for leaf in jax.tree.leaves(clip["params"]["text"]):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def pretraining(run: Run) -> training.Job:
    """Builds the training of both towers on image-sentence pairs of a class."""
    section = run.config.pretrain
    plan = head_training.plan_of(run, section)
    variables = run.initial_towers()

    def make_step(optimizer: optax.GradientTransformation) -> Step:
        return pretrain.make_step(run.embedder, optimizer, plan.schedule, section)

    return training.Job(
        plan,
        make_step,
        optim.make_optimizer(
            variables["params"],
            schedule=plan.schedule,
            weight_decay=section.weight_decay,
        ),
        lambda: None if section.distillation == "none" else teacher(run),
        variables,
        head_training.batches_of(run, section, with_text=True),
        run.artifact("pretrain").directory,
        row_probe.of_pairs(run.embedder),
        lambda: head_training.batch_shapes(run, section, with_text=True),
    )
