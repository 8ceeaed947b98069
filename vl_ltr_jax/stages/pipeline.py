"""The run as a list of stages: pretrain, embed, anchors, finetune, evaluate.

Those that the configuration needs; its method may add some before the last.
A stage is a function of the configuration and the artifacts before it to one artifact
under `workdir/STAGE/`. A finished stage is skipped on the next start, an unfinished one
resumes at its last checkpoint, and a changed configuration is refused by name.
"""

import time
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from vl_ltr_jax import systems
from vl_ltr_jax.checkpoint import restore
from vl_ltr_jax.config import build as configs
from vl_ltr_jax.config import settings
from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.logs import console
from vl_ltr_jax.run import head_training
from vl_ltr_jax.run import inputs as run_inputs
from vl_ltr_jax.run.depends import artifact
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.runtime import versions as runtime_versions
from vl_ltr_jax.stages import anchors, evaluate
from vl_ltr_jax.stages.embed import run_embed
from vl_ltr_jax.stages.finetune import finetuning
from vl_ltr_jax.stages.pretrain import pretraining
from vl_ltr_jax.stages.summary import of_stage
from vl_ltr_jax.storage import strict_json
from vl_ltr_jax.storage.artifact import ArtifactError, write_whole
from vl_ltr_jax.storage.lock import sole_user
from vl_ltr_jax.storage.workdir import check_free, check_writable
from vl_ltr_jax.systems import titles

_FILES = (  # of a run, beside the directories of its stages
    *("config.json", "versions.json", "classes.json", "model.json"),
    *("results.json", "report.md", "report.html"),
)
STAGES: dict[str, systems.Stage] = {
    "pretrain": head_training.TrainingStage(pretraining),
    "embed": run_embed,
    "anchors": anchors.select,
    "finetune": head_training.TrainingStage(finetuning),
    "evaluate": evaluate.evaluate_heads,
}


def stages_of(config: Config) -> dict[str, systems.Stage]:
    """Every stage of the configuration's method, evaluation last."""
    own = systems.recipe_of(config).stages()
    if shared := own.keys() & (STAGES.keys() - {"finetune"}):
        raise ValueError(f"{config.method} replaces {shared}, which all methods share")
    road = {**STAGES, **own}
    last = road.pop("evaluate")
    return {**road, "evaluate": last}


def planned(config: Config, inputs: run_inputs.RunInputs) -> list[str]:
    """Names of the stages this configuration runs, in order."""
    if inputs.released_head is not None:
        return ["evaluate"]  # the checkpoint holds all that the others make
    evaluated, without = config.evaluate, set()
    if not config.pretrain.epochs:
        without.add("pretrain")
    if not config.finetune.epochs:
        without.add("finetune")
    text = evaluated.zero_shot and evaluated.zero_shot_text
    if not (config.finetune.epochs and config.finetune.head == "lgr"):
        if text != "anchors":
            without.add("anchors")
            if not (evaluated.knn or text):
                without.add("embed")
    return [name for name in stages_of(config) if name not in without]


def check(config: Config, workdir: epath.Path, inputs: run_inputs.RunInputs) -> None:
    """Refuses a workdir that cannot be written or belongs to another run.

    Raises:
      WorkdirError: if files cannot be made in the workdir, or others are in their way.
      ArtifactError: if a stage there is damaged, was made with another configuration
        or inputs, or is finished while one that it was made from is not.
    """
    check_writable(workdir)
    names = planned(config, inputs)
    own = [f"{stage}/checkpoints" for stage in names]
    check_free(workdir, _FILES, ["teacher", "compiled", *names, *own])
    unfinished = ""
    for stage in names:
        left = artifact(config, workdir, stage, inputs)
        left.check()
        if not left.finished:
            unfinished = unfinished or stage
            continue
        left.summary()
        if unfinished:
            raise ArtifactError(
                f"stage {stage!r} in {workdir} is finished, but {unfinished!r}, which "
                f"comes before it, is not: it would be made anew and no longer be what "
                f"{stage!r} was made from. Move {left.directory} and those of the "
                "stages after it elsewhere"
            )


def run(
    config: Config, workdir: epath.Path, inputs: run_inputs.RunInputs
) -> dict[str, Any]:
    """Runs all stages that are not finished, and writes results.json.

    Args:
      config: the checked configuration.
      workdir: where everything goes; :func:`check` has accepted it.
      inputs: returned by :func:`run_inputs.read`.

    Returns:
      The results, as in `workdir/results.json`.

    Raises:
      UserError: for what the user can mend, with how.
    """
    configs.check_devices(config, jax.device_count())
    with sole_user(workdir):
        return _run(config, workdir, inputs)


def _run(
    config: Config, workdir: epath.Path, inputs: run_inputs.RunInputs
) -> dict[str, Any]:
    mesh = meshes.make_mesh(config.mesh.data, config.mesh.model)
    this = Run(config, workdir, inputs, mesh)
    versions = runtime_versions.versions()
    if jax.process_index() == 0:
        write_whole(workdir / "config.json", settings.to_json(config))
        write_whole(workdir / "versions.json", strict_json.to_json(versions))
        write_whole(workdir / "classes.json", strict_json.to_json(classes(inputs)))
        write_whole(workdir / "model.json", strict_json.to_json(inputs.model_facts()))
    costs: dict[str, dict[str, float]] = {}
    told: dict[str, Any] = {}
    for name in planned(config, inputs):
        summary = _made(this, name, versions)
        costs[name] = {
            "images_seen": summary.get("images_seen", 0),
            "seconds": summary["seconds"],
        }
        if (
            name == "anchors" and anchors.TOLD[0] in summary
        ):  # an older run told nothing
            told = {"anchors": {key: summary[key] for key in anchors.TOLD}}
    results = {
        **{split: summary[split] for split in ("test", "val")},
        "predicted_by": summary.get("predicted_by"),
        "data": describe(this),
        **told,
        "cost": {
            **{
                unit: sum(cost[unit] for cost in costs.values())
                for unit in ("images_seen", "seconds")
            },
            "stages": costs,
        },
        "versions": summary["versions"],  # of the evaluation, not of this start
    }
    if jax.process_index() == 0:
        write_whole(workdir / "results.json", strict_json.to_json(results))
    return results


def _made(run: Run, name: str, versions: dict[str, Any]) -> dict[str, Any]:
    """The summary of a stage, which is made unless it is finished."""
    left = run.artifact(name)
    # One process looks: file systems may show the others an older state.
    if multihost_utils.broadcast_one_to_all(np.asarray(left.finished)):
        console.say("finished before, skipped", stage=name)
        return left.summary()
    try:
        return _make(run, name, versions)
    except restore.DamagedError as error:
        damaged = error.directory.parent.name
        console.warn(f"{error.fault}. {damaged} goes on from the checkpoint before")
        _make(run, damaged, versions)
        return _make(run, name, versions)


def _make(run: Run, name: str, versions: dict[str, Any]) -> dict[str, Any]:
    left = run.artifact(name)
    console.say("starts", stage=name)
    start = time.monotonic()
    if jax.process_index() == 0:
        left.begin()
    multihost_utils.sync_global_devices(f"{name} begins")
    summary = {**stages_of(run.config)[name](run), "versions": versions}
    before = summary.pop("seconds_before", 0.0)
    summary["seconds"] = before + time.monotonic() - start
    if jax.process_index() == 0:
        left.finish(summary)
    multihost_utils.sync_global_devices(f"{name} ends")
    made = of_stage(summary, titles.head_names(run.config))
    console.say(made, stage=name)
    return summary


def classes(inputs: run_inputs.RunInputs) -> dict[str, Any]:
    """What a reader of the results must know of the classes, in label order."""
    return {
        "names": list(inputs.data.class_names),
        "train_counts": inputs.data.train_counts.tolist(),
    }


def describe(run: Run) -> dict[str, Any]:
    """The data section of the results."""
    data, counts = run.inputs.data, run.inputs.data.train_counts
    return {
        "name": data.name,
        "num_classes": run.inputs.num_classes,
        "train_images": len(data.train.labels),
        "val_images": len(data.val.labels),
        "test_images": len(data.test.labels),
        "test_is_val": data.test_is_val,
        "largest_class": int(counts.max()),
        "smallest_class": int(counts.min()),
        "sentences": len(run.inputs.corpus.sentences),
    }
