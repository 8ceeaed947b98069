"""The run as a list of stages: pretrain, embed, anchors, finetune, evaluate.

Those that the configuration needs; its method may add some before the last.
A stage is a function of the configuration and the artifacts before it to one artifact
under `workdir/STAGE/`. A finished stage is skipped on the next start, an unfinished one
resumes at its last checkpoint, and a changed configuration is refused by name. The
report is written from the artifacts at the end of every start.
"""

import functools
import time
from typing import Any

import jax
import numpy as np
import optax
from etils import epath
from jax.experimental import multihost_utils

from vl_ltr_jax import (
    anchors,
    anss,
    baselines,
    checkpoint,
    embed,
    evaluation,
    inputs,
    mixup,
    optim,
    outcomes,
    pretrain,
    provenance,
    recognition,
    report,
    rows,
    settings,
    teacher,
    terminal,
    training,
)
from vl_ltr_jax import config as configs
from vl_ltr_jax import mesh as meshes
from vl_ltr_jax.artifacts import ArtifactError, write_whole
from vl_ltr_jax.run import Run, artifact
from vl_ltr_jax.settings import Config
from vl_ltr_jax.workdir import check_free, check_writable, sole_user

_FILES = (  # of a run, beside the directories of its stages
    *("config.json", "versions.json", "classes.json", "model.json"),
    *("results.json", "report.md", "report.html"),
)


def pretraining(run: Run) -> training.Job:
    """Towers trained on image-sentence pairs of the same class."""
    config, options = run.config, run.config.pretrain
    plan = recognition.plan_of(run, options)
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
        lambda: {} if options.distillation == "none" else teacher.frozen(run),
        variables,
        recognition.batches_of(run, options, with_text=True),
        run.artifact("pretrain").directory,
        rows.of_pairs(
            run.model,
            run.prepare,
            config.seed,
            run.mesh,
            accumulation_steps=config.mesh.accumulation_steps,
        ),
    )


def run_embed(run: Run) -> dict[str, Any]:
    """Embeddings of every sentence and of the images that anchors are chosen by."""
    towers = run.replicate(run.towers())
    data, options = run.inputs.data, run.config.anchors
    split = data.train if options.images == "train" else data.val
    kept = anss.cap_images_per_class(split.labels, options.max_images_per_class)
    encode = jax.jit(run.encode_image)
    images, labels = embed.embed_images(
        functools.partial(encode, towers),
        run.eval_batches(split.select(kept), "embed"),
        run.mesh,
    )
    sentences = run.embed_sentences(towers, "embed")
    if jax.process_index() == 0:
        run.artifact("embed").save_arrays(
            sentences=sentences, images=images, image_labels=labels
        )
    return {"sentences": len(sentences), "images": len(images)}


def finetuning(run: Run) -> training.Job:
    """The recognition head, and the image tower where the configuration trains it."""
    config, options, read = run.config, run.config.finetune, run.inputs
    recipe = baselines.recipe_of(config)
    towers, anchored = run.towers(), run.anchors()
    head = recipe.head(run, towers)
    if head is None:
        raise ValueError(f"{recipe.title} has no head, and no fine-tuning of its own")
    features = np.zeros((1, read.clip_config.embed_dim), np.float32)
    example = (anchored["embeddings"], anchored["padding"]) if anchored else ()
    params = {
        "head": jax.tree.map(
            np.asarray,
            jax.jit(head.init)(jax.random.key(config.seed), features, *example),
        )["params"]
    }
    if options.train_image_tower:
        params["visual"] = towers["params"]["visual"]
    mix = functools.partial(
        mixup.mix,
        num_classes=read.num_classes,
        mixup_alpha=options.mixup_alpha,
        cutmix_alpha=options.cutmix_alpha,
        label_smoothing=options.label_smoothing,
    )
    return recognition.job(
        run,
        "finetune",
        options,
        head=head,
        params=params,
        towers=towers,
        anchored=anchored,
        mix=mix,
        make_loss=functools.partial(recipe.make_loss, config, read.data.train_counts),
    )


STAGES: dict[str, baselines.Stage] = {
    "pretrain": recognition.TrainingStage(pretraining),
    "embed": run_embed,
    "anchors": anchors.select,
    "finetune": recognition.TrainingStage(finetuning),
    "evaluate": evaluation.evaluate_heads,
}


def stages_of(config: Config) -> dict[str, baselines.Stage]:
    """Every stage of the configuration's method, evaluation last."""
    own = baselines.recipe_of(config).stages()
    if shared := own.keys() & (STAGES.keys() - {"finetune"}):
        raise ValueError(f"{config.method} replaces {shared}, which all methods share")
    road = {**STAGES, **own}
    last = road.pop("evaluate")
    return {**road, "evaluate": last}


def planned(config: Config, read: inputs.Inputs) -> list[str]:
    """Names of the stages this configuration runs, in order."""
    if read.recognizer is not None:
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


def check(config: Config, workdir: epath.Path, read: inputs.Inputs) -> None:
    """Refuses a workdir that cannot be written or belongs to another run.

    Raises:
      WorkdirError: if files cannot be made in the workdir, or others are in their way.
      ArtifactError: if a stage there is damaged, was made with another configuration
        or inputs, or is finished while one that it was made from is not.
    """
    check_writable(workdir)
    names = planned(config, read)
    own = [f"{stage}/checkpoints" for stage in names]
    check_free(workdir, _FILES, ["teacher", "compiled", *names, *own])
    unfinished = ""
    for stage in names:
        left = artifact(config, workdir, stage, read)
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


def run(config: Config, workdir: epath.Path, read: inputs.Inputs) -> dict[str, Any]:
    """Runs all stages that are not finished and writes the report.

    Args:
      config: the checked configuration.
      workdir: where everything goes; :func:`check` has accepted it.
      read: what :func:`inputs.read` returned.

    Returns:
      The results, as in `workdir/results.json`.

    Raises:
      UserError: for what the user can mend, with how.
    """
    configs.check_devices(config, jax.device_count())
    with sole_user(workdir):
        return _run(config, workdir, read)


def _run(config: Config, workdir: epath.Path, read: inputs.Inputs) -> dict[str, Any]:
    mesh = meshes.make_mesh(config.mesh.data, config.mesh.model)
    this = Run(config, workdir, read, mesh)
    versions = provenance.versions()
    if jax.process_index() == 0:
        write_whole(workdir / "config.json", settings.to_json(config))
        write_whole(workdir / "versions.json", report.to_json(versions))
        write_whole(workdir / "classes.json", report.to_json(classes(read)))
        write_whole(workdir / "model.json", report.to_json(read.model_facts()))
    costs: dict[str, dict[str, float]] = {}
    told: dict[str, Any] = {}
    for name in planned(config, read):
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
        write_whole(workdir / "results.json", report.to_json(results))
        text = report.markdown(
            results,
            outcomes.title(config),
            config.model.backbone,
            outcomes.head_names(config),
        )
        write_whole(workdir / "report.md", text)
    return results


def _made(run: Run, name: str, versions: dict[str, Any]) -> dict[str, Any]:
    """The summary of a stage, which is made unless it is finished."""
    left = run.artifact(name)
    # One process looks: file systems may show the others an older state.
    if multihost_utils.broadcast_one_to_all(np.asarray(left.finished)):
        terminal.say("finished before, skipped", stage=name)
        return left.summary()
    try:
        return _make(run, name, versions)
    except checkpoint.DamagedError as error:
        damaged = error.directory.parent.name
        terminal.warn(f"{error.fault}. {damaged} goes on from the checkpoint before")
        _make(run, damaged, versions)
        return _make(run, name, versions)


def _make(run: Run, name: str, versions: dict[str, Any]) -> dict[str, Any]:
    left = run.artifact(name)
    terminal.say("starts", stage=name)
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
    made = outcomes.of_stage(summary, outcomes.head_names(run.config))
    terminal.say(made, stage=name)
    return summary


def classes(read: inputs.Inputs) -> dict[str, Any]:
    """What a reader of the results must know of the classes, in label order."""
    return {
        "names": list(read.data.class_names),
        "train_counts": read.data.train_counts.tolist(),
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
