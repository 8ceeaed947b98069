"""The stages of a run: pretrain, embed, anchors, finetune, evaluate.

A configuration skips some; its system may add some before the last. A stage is a
function of the configuration and the earlier artifacts. It leaves one artifact under
`workdir/STAGE/`. The next start skips a finished stage, and resumes an unfinished one
at its last checkpoint. A changed configuration is refused with the names of its keys.
"""

import time
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from vl_ltr_jax import systems
from vl_ltr_jax.checkpoint import restore
from vl_ltr_jax.config import settings
from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.logs import console
from vl_ltr_jax.run import head_training
from vl_ltr_jax.run.depends import artifact
from vl_ltr_jax.run.inputs import RunInputs
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

_FACTS = ("config.json", "versions.json", "classes.json", "model.json")
_FILES = (*_FACTS, "results.json", "report.md", "report.html")
STAGES: dict[str, systems.Stage] = {
    "pretrain": head_training.TrainingStage(pretraining),
    "embed": run_embed,
    "anchors": anchors.select,
    "finetune": head_training.TrainingStage(finetuning),
    "evaluate": evaluate.evaluate_heads,
}


def stages_of(config: Config) -> dict[str, systems.Stage]:
    """Returns every stage of the configuration's system, evaluation last."""
    own = systems.recipe_of(config).stages()
    if shared := own.keys() & (STAGES.keys() - {"finetune"}):
        raise ValueError(f"method={config.method}: replaces the shared stages {shared}")
    stages = {**STAGES, **own}
    last = stages.pop("evaluate")
    return {**stages, "evaluate": last}


def planned(config: Config, inputs: RunInputs) -> list[str]:
    """Returns the names of the stages that a configuration runs, in order."""
    if inputs.released_head is not None:
        return ["evaluate"]  # the checkpoint holds the results of the other stages
    section, skipped = config.evaluate, set()
    if not config.pretrain.epochs:
        skipped.add("pretrain")
    if not config.finetune.epochs:
        skipped.add("finetune")
    text = section.zero_shot and section.zero_shot_text
    if not (config.finetune.epochs and config.finetune.head == "lgr"):
        if text != "anchors":
            skipped.add("anchors")
            if not (section.knn or text):
                skipped.add("embed")
    return [name for name in stages_of(config) if name not in skipped]


def check(config: Config, workdir: epath.Path, inputs: RunInputs) -> None:
    """Refuses a workdir that is not writable or belongs to another run.

    Raises:
      WorkdirError: the workdir is not writable, or other files are in the way.
      ArtifactError: a stage is damaged, or does not fit the run or an earlier stage.
    """
    check_writable(workdir)
    names = planned(config, inputs)
    own = [f"{stage}/checkpoints" for stage in names]
    check_free(workdir, _FILES, ["teacher", "compiled", *names, *own])
    unfinished = ""
    for name in names:
        stage = artifact(config, workdir, name, inputs)
        stage.check()
        if not stage.finished:
            unfinished = unfinished or name
            continue
        stage.summary()
        if unfinished:
            raise ArtifactError(
                f"{stage.directory}: finished, but the earlier stage {unfinished!r} is "
                "not. Move it and the directories of later stages elsewhere."
            )


def run(run: Run) -> dict[str, Any]:
    """Runs all stages that are not finished, and writes and returns the results.

    :func:`check` must have accepted the workdir.

    Raises:
      UserError: with a remedy.
    """
    with sole_user(run.workdir):
        results = _run(run)
        _write(run, "results.json", strict_json.to_json(results))
        return results


def _run(run: Run) -> dict[str, Any]:
    devices = meshes.describe(run.mesh, run.config.mesh.fsdp)
    console.say(f"computes in {run.config.model.compute_dtype} on {devices}")
    versions = runtime_versions.versions()
    _write(run, "config.json", settings.to_json(run.config))
    _write(run, "versions.json", strict_json.to_json(versions))
    data = run.inputs.data
    counts = data.train_counts.tolist()
    classes = {"names": list(data.class_names), "train_counts": counts}
    _write(run, "classes.json", strict_json.to_json(classes))
    _write(run, "model.json", strict_json.to_json(run.inputs.model_facts()))
    summaries = {
        name: _summary_of(run, name, versions)
        for name in planned(run.config, run.inputs)
    }
    evaluation = summaries["evaluate"]
    results: dict[str, Any] = {
        **{split: evaluation[split] for split in ("test", "val")},
        "predicted_by": evaluation.get("predicted_by"),
        "data": {
            "name": data.name,
            "num_classes": run.inputs.num_classes,
            "train_images": len(data.train.labels),
            "val_images": len(data.val.labels),
            "test_images": len(data.test.labels),
            "test_is_val": data.test_is_val,
            "largest_class": max(counts),
            "smallest_class": min(counts),
            "sentences": len(run.inputs.corpus.sentences),
        },
    }
    if "anchors" in summaries:
        chosen = summaries["anchors"]
        results["anchors"] = {key: chosen[key] for key in anchors.REPORTED_KEYS}
    units = ("images_seen", "seconds")
    costs = {
        name: {unit: summary.get(unit, 0) for unit in units}
        for name, summary in summaries.items()
    }
    total = {unit: sum(cost[unit] for cost in costs.values()) for unit in units}
    results["cost"] = {**total, "stages": costs}
    results["versions"] = evaluation["versions"]  # a finished evaluation keeps its own
    return results


def _write(run: Run, name: str, text: str) -> None:
    if jax.process_index() == 0:
        write_whole(run.workdir / name, text)


def _summary_of(run: Run, name: str, versions: dict[str, Any]) -> dict[str, Any]:
    """Returns the summary of a stage, and runs the stage unless it is finished."""
    stage = run.artifact(name)
    # One process looks: file systems may show the others an older state.
    if multihost_utils.broadcast_one_to_all(np.asarray(stage.finished)):
        console.say("finished before, skipped", stage=name)
        return stage.summary()
    try:
        return _run_stage(run, name, versions)
    except restore.DamagedError as error:
        damaged = error.directory.parent.name
        console.warn(f"{error.fault}. {damaged} goes on from the checkpoint before")
        _run_stage(run, damaged, versions)
        return _run_stage(run, name, versions)


def _run_stage(run: Run, name: str, versions: dict[str, Any]) -> dict[str, Any]:
    stage = run.artifact(name)
    console.say("starts", stage=name)
    start = time.monotonic()
    if jax.process_index() == 0:
        stage.begin()
    multihost_utils.sync_global_devices(f"{name} begins")
    summary = {**stages_of(run.config)[name](run), "versions": versions}
    before = summary.pop("seconds_before", 0.0)
    summary["seconds"] = before + time.monotonic() - start
    if jax.process_index() == 0:
        stage.finish(summary)
    multihost_utils.sync_global_devices(f"{name} ends")
    console.say(of_stage(summary, titles.head_names(run.config)), stage=name)
    return summary
