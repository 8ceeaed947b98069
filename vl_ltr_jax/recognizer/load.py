"""Recognizers of finished runs, and those that were saved."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from vl_ltr_jax import systems
from vl_ltr_jax.config import build as configs
from vl_ltr_jax.config.methods import DECOUPLED
from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.models import linear
from vl_ltr_jax.models.port import vl_ltr_files
from vl_ltr_jax.recognizer import added_classes, files, validate
from vl_ltr_jax.recognizer.card import ModelCard
from vl_ltr_jax.recognizer.recognizer import Recognizer
from vl_ltr_jax.run import initial
from vl_ltr_jax.run.anchors import Anchors, load_texts
from vl_ltr_jax.run.run import with_tuned_tower
from vl_ltr_jax.run.saved import finished, model_facts, released, towers_of
from vl_ltr_jax.runtime import errors
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.storage import paths, strict_json
from vl_ltr_jax.storage.artifact import ArtifactError, redo_advice
from vl_ltr_jax.systems.decoupled import STAGE
from vl_ltr_jax.train.stage import trained


def load(directory: str | os.PathLike[str]) -> Recognizer:
    """Loads the model of a finished run, or one that was saved.

    Args:
      directory: a run's workdir, or what `Recognizer.save` wrote.

    Returns:
      The recognizer; it gives the probabilities that the run's evaluation saw.

    Raises:
      ArtifactError: if the directory is neither, the run is not finished, or a file of
        it is damaged.
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
            return of_run(path)
    raise ArtifactError(
        f"{path} has neither a config.json nor a {files.CARD}: name the "
        "--workdir of a finished run, or a directory that a recognizer was saved into"
        + ("" if path.exists() else " (there is no such directory)")
    )


def of_run(workdir: epath.Path) -> Recognizer:
    """The model of a finished run.

    Args:
      workdir: of the run.

    Raises:
      ArtifactError: as :func:`load`.
    """
    try:
        config = configs.from_json((workdir / "config.json").read_text())
        classes = strict_json.parse((workdir / "classes.json").read_bytes())
        names = files.names(classes["names"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.lack(error) or ArtifactError(
            f"{workdir} cannot be read ({error}); start its command again: finished "
            "stages are skipped"
        ) from error
    evaluated = finished(workdir, "evaluate")
    own = evaluated.summary().get("predicted_by")
    if own is None:
        path = evaluated.directory / "artifact.json"
        raise ArtifactError(f"{path} names no head. {redo_advice(evaluated.directory)}")
    if own == "knn":
        raise ArtifactError(
            f"{workdir} recognises by the nearest of all sentences (kNN), which is no "
            "model to be loaded; give it a head, or evaluate.zero_shot=True"
        )
    authors = released(config)
    tuned: dict[str, Any] = {}
    if config.finetune.epochs:
        tuned = trained(finished(workdir, "finetune"))["params"]
    towers = authors.variables if authors else towers_of(workdir, config)
    arrays: dict[str, Any] = {"towers": with_tuned_tower(towers, tuned)}
    recognizer = authors.released_head if authors else None
    if own != "lgr":
        arrays["head"] = _linear(workdir, config, own, towers, tuned)
    else:
        arrays["head"] = recognizer.params if recognizer else tuned["head"]
        arrays |= _anchored(workdir, recognizer)
    card = ModelCard(
        method=config.method,
        backbone=config.model.backbone,
        image_size=config.model.image_size,
        compute_dtype=config.model.compute_dtype,
        **model_facts(workdir),
        eval_recipe=config.data.eval_recipe,
        context_length=config.data.context_length,
        head="lgr" if own == "lgr" else "linear",
        prediction=config.evaluate.prediction,
        visual_weight=config.evaluate.visual_weight,
        language_logit_scale=float(towers["params"]["logit_scale"]),
        num_trained=len(names),
        class_names=names,
        sentences=files.texts(load_texts(workdir) or [[]] * len(names)),
        orientation=config.data.orientation,
    )
    name = config.init.tokenizer or config.init.clip

    def tokenizer() -> Path:
        source = initial.model_source(name)
        return source.parent if source.is_file() else source

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
        tokenizer=tokenizer,
        source=os.fspath(workdir),
    )


def _linear(
    workdir: epath.Path,
    config: Config,
    own: str,
    towers: dict[str, Any],
    tuned: dict[str, Any],
) -> dict[str, np.ndarray]:
    """A head that is linear in the features, as arrays."""
    if own == "zero_shot":
        class_texts = finished(workdir, "evaluate").load_array("class_texts")
        scale = float(np.exp(towers["params"]["logit_scale"]))
        return linear.as_arrays({"visual_kernel": class_texts.T}, scale)
    recipe = systems.recipe_of(config)
    if own == "fc":
        return linear.as_arrays(tuned["head"], recipe.score_scale(config))
    if config.method not in DECOUPLED:
        raise ArtifactError(
            f"{workdir} recognises by {own!r}, a head of the method {config.method!r} "
            "that cannot be loaded by itself"
        )
    left = finished(workdir, STAGE)
    return {name: left.load_array(name) for name in left.summary()["arrays"]}


def _anchored(
    workdir: epath.Path, recognizer: vl_ltr_files.ReleasedHead | None
) -> dict[str, Any]:
    """The anchors of an LGR, and no class added to them."""
    if recognizer is not None:
        embeddings, padding = recognizer.anchors, recognizer.padding
    else:
        anchors = Anchors.load(workdir)
        embeddings, padding = anchors.embeddings, anchors.padding
    return {
        "anchors": {"embeddings": embeddings, "padding": padding},
        "added": added_classes.empty(*embeddings.shape[1:]),
    }
