"""Recognizers of finished runs, and those that were saved."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from vl_ltr_jax import (
    baselines,
    errors,
    initial,
    json_text,
    paths,
    recognizer_checks,
    recognizer_files,
    unseen,
)
from vl_ltr_jax import config as configs
from vl_ltr_jax import mesh as meshes
from vl_ltr_jax.artifacts import Artifact, ArtifactError, made_again
from vl_ltr_jax.baselines.decoupled import STAGE
from vl_ltr_jax.heads import Card
from vl_ltr_jax.models import clip_files, linear, vl_ltr
from vl_ltr_jax.models.clip import PRESETS, Clip
from vl_ltr_jax.models.layers import ACTIVATIONS
from vl_ltr_jax.models.preprocessing import checked_constants
from vl_ltr_jax.models.tensor_files import read_tensors
from vl_ltr_jax.recognizer import Recognizer
from vl_ltr_jax.run import anchor_sentences, random_towers, with_tuned_tower
from vl_ltr_jax.settings import DECOUPLED, Config
from vl_ltr_jax.training import trained


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
    if (path / recognizer_files.CARD).exists():
        card, arrays, reference = recognizer_files.read(Path(directory))
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
        f"{path} has neither a config.json nor a {recognizer_files.CARD}: name the "
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
        classes = json_text.parse((workdir / "classes.json").read_bytes())
        names = recognizer_files.names(classes["names"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.lack(error) or ArtifactError(
            f"{workdir} cannot be read ({error}); start its command again: finished "
            "stages are skipped"
        ) from error
    evaluated = finished(workdir, "evaluate")
    own = evaluated.summary().get("predicted_by")
    if own is None:
        path = evaluated.directory / "artifact.json"
        raise ArtifactError(f"{path} names no head. {made_again(evaluated.directory)}")
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
    recognizer = authors.recognizer if authors else None
    if own != "lgr":
        arrays["head"] = _linear(workdir, config, own, towers, tuned)
    else:
        arrays["head"] = recognizer.params if recognizer else tuned["head"]
        arrays |= _anchored(workdir, recognizer)
    card = Card(
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
        sentences=recognizer_files.texts(
            anchor_sentences(workdir) or [[]] * len(names)
        ),
        orientation=config.data.orientation,
    )
    name = config.init.tokenizer or config.init.clip

    def tokenizer() -> Path:
        source = initial.model_source(name)
        return source.parent if source.is_file() else source

    reference = evaluated.load_array("val_features")
    try:
        recognizer_checks.check(card, arrays, reference)
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


def config_of(workdir: epath.Path) -> Config:
    """The configuration that a run was last started with.

    Args:
      workdir: of the run, finished or not.

    Raises:
      ArtifactError: if there is none, or it is damaged.
    """
    path = workdir / "config.json"
    try:
        return configs.from_json(path.read_text())
    except (OSError, ValueError) as error:
        raise errors.lack(error) or ArtifactError(
            f"{path} cannot be read ({error}); is {workdir} the --workdir of a run?"
        ) from error


def model_facts(workdir: epath.Path) -> dict[str, Any]:
    """Facts of a run's towers, as `Inputs.model_facts` wrote them.

    Raises:
      ArtifactError: if the file is absent or damaged.
    """
    path = workdir / "model.json"
    try:
        facts = json_text.parse(path.read_bytes())
        mean, std = facts["normalization"]
        activations = {
            key: facts[key] for key in ("vision_activation", "text_activation")
        }
        if unknown := set(activations.values()) - ACTIVATIONS.keys():
            raise ValueError(f"an activation is {sorted(unknown)[0]!r}")
        return {
            **activations,
            "normalization": checked_constants(mean, std, "normalization"),
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path} cannot be read ({error}). Start the run's command again, which "
            "writes it; a run of an earlier version needs another workdir"
        ) from error


def finished(workdir: epath.Path, stage: str) -> Artifact:
    """The artifact of a stage.

    Raises:
      ArtifactError: if it is not finished.
    """
    artifact = Artifact(workdir / stage, {})
    if not artifact.finished:
        raise ArtifactError(
            f"stage {stage!r} in {workdir} is not finished; the command that started "
            "the run goes on with it"
        )
    return artifact


def towers_of(workdir: epath.Path, config: Config) -> dict[str, Any]:
    """The towers of a run before fine-tuning, on the host.

    Raises:
      ArtifactError: if the run has not come so far.
    """
    if config.pretrain.epochs:
        return trained(finished(workdir, "pretrain"))
    size = config.model.image_size
    if config.init.clip:
        file = initial.find_clip(config)
        tensors = read_tensors(file.path)
        return clip_files.from_file(file, tensors, image_size=size)[1]
    sizes = PRESETS[config.model.backbone].at_image_size(size)
    return random_towers(Clip(sizes), config.seed)


def released(config: Config) -> vl_ltr.Released | None:
    """The authors' checkpoint that the run evaluated, if it did.

    Raises:
      UserError: its file is gone or broken.
    """
    return initial.released(config) if config.init.vl_ltr else None


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
    recipe = baselines.recipe_of(config)
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
    workdir: epath.Path, recognizer: vl_ltr.Recognizer | None
) -> dict[str, Any]:
    """The anchors of an LGR, and no class added to them."""
    if recognizer is not None:
        embeddings, padding = recognizer.anchors, recognizer.padding
    else:
        chosen = finished(workdir, "anchors")
        padding = np.array(chosen.load_array("padding"))
        sentences = finished(workdir, "embed").load_array("sentences")
        rows = sentences[chosen.load_array("indices")]
        embeddings = np.where(padding[..., None], 0, rows).astype(np.float32)
    return {
        "anchors": {"embeddings": embeddings, "padding": padding},
        "added": unseen.none(*embeddings.shape[1:]),
    }
