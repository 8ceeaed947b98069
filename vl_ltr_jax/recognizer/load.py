"""Recognizers of finished runs, and recognizers that were saved."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from vl_ltr_jax import systems
from vl_ltr_jax.models import linear
from vl_ltr_jax.recognizer import added_classes, files, validate
from vl_ltr_jax.recognizer.card import ModelCard
from vl_ltr_jax.recognizer.recognizer import Recognizer
from vl_ltr_jax.run.anchors import load_texts
from vl_ltr_jax.run.saved import SavedRun
from vl_ltr_jax.runtime import errors
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.storage import paths
from vl_ltr_jax.storage.artifact import ArtifactError, redo_advice
from vl_ltr_jax.systems.decoupled import STAGE, Decoupled


def load(directory: str | os.PathLike[str]) -> Recognizer:
    """Loads the model of a finished run, or a saved recognizer.

    Args:
      directory: workdir of a run, or a directory that `Recognizer.save` wrote.

    Returns:
      The recognizer. It gives the probabilities that the run's evaluation saw.

    Raises:
      ArtifactError: the directory is neither, the run is not finished, or a file is
        damaged.
      UserError: other files of the run are damaged, or there is no device.
    """
    directory = paths.expand(directory)
    meshes.devices()
    path = epath.Path(directory)
    if (path / files.CARD).exists():
        card, arrays, reference = files.read(Path(directory))
        return Recognizer(
            card,
            arrays,
            reference=reference,
            tokenizer=lambda: Path(directory),
            source=os.fspath(directory),
        )
    if (path / "config.json").exists():
        with errors.system_faults():
            return from_run(path)
    raise ArtifactError(
        f"{path} has neither a config.json nor a {files.CARD}: name the "
        "--workdir of a finished run, or a directory that a recognizer was saved into"
        + ("" if path.exists() else " (there is no such directory)")
    )


def from_run(workdir: epath.Path) -> Recognizer:
    """Returns the recognizer of a finished run.

    Raises:
      ArtifactError: see :func:`load`.
    """
    run = SavedRun(workdir)
    config, names = run.config, run.class_names()
    evaluated = run.artifact("evaluate")
    head = evaluated.summary().get("predicted_by")
    if head is None:
        path = evaluated.directory / "artifact.json"
        raise ArtifactError(f"{path} names no head. {redo_advice(evaluated.directory)}")
    if head == "knn":
        raise ArtifactError(
            f"{workdir}: its classes come from the nearest of all sentences (kNN), "
            "which is no model. Set finetune.head, or evaluate.zero_shot=True"
        )
    towers = run.towers()
    arrays: dict[str, Any] = {"towers": towers}
    if head == "lgr":
        released = run.released and run.released.released_head
        arrays["head"] = released.params if released else run.tuned["head"]
        arrays["anchors"] = run.anchors()
        size = arrays["anchors"]["embeddings"].shape[1:]
        arrays["added"] = added_classes.empty(*size)
    else:
        arrays["head"] = _linear(run, head, towers)
    card = ModelCard(
        method=config.method,
        backbone=config.model.backbone,
        image_size=config.model.image_size,
        compute_dtype=config.model.compute_dtype,
        **run.model_facts(),
        eval_recipe=config.data.eval_recipe,
        context_length=config.data.context_length,
        head="lgr" if head == "lgr" else "linear",
        prediction=config.evaluate.prediction,
        visual_weight=config.evaluate.visual_weight,
        language_logit_scale=float(towers["params"]["logit_scale"]),
        num_trained=len(names),
        class_names=names,
        sentences=tuple(map(tuple, load_texts(workdir) or [[]] * len(names))),
        orientation=config.data.orientation,
    )
    reference = evaluated.load_array("val_features")
    try:
        validate.check(card, arrays, reference)
    except ValueError as error:
        raise ArtifactError(
            f"{workdir}: its stages do not fit each other ({error}). Start its command "
            "again: it names the stage that is damaged or of another version"
        ) from error
    return Recognizer(
        card,
        arrays,
        reference=reference,
        tokenizer=run.tokenizer_directory,
        source=os.fspath(workdir),
    )


def _linear(run: SavedRun, head: str, towers: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns the arrays of a head that is linear in the features."""
    config = run.config
    if head == "zero_shot":
        class_texts = run.artifact("evaluate").load_array("class_texts")
        scale = float(np.exp(towers["params"]["logit_scale"]))
        return linear.as_arrays({"visual_kernel": class_texts.T}, scale)
    if head == "fc":
        scale = systems.recipe_of(config).score_scale(config)
        return linear.as_arrays(run.tuned["head"], scale)
    if not isinstance(systems.recipe_of(config), Decoupled):
        raise ArtifactError(
            f"{run.workdir}: the head {head!r} of the method {config.method!r} cannot "
            "be loaded by itself"
        )
    artifact = run.artifact(STAGE)
    return {name: artifact.load_array(name) for name in artifact.summary()["arrays"]}
