"""What a stage and a run came to, in a line each, and what to do with it next."""

import shlex
from collections.abc import Mapping
from typing import Any

from etils import epath

from vl_ltr_jax import systems
from vl_ltr_jax.commands import help as usage
from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.logs import console
from vl_ltr_jax.report import tables

# What a run leaves for people to read.
_REPORTS = {
    "report.html": "figures, sentences and pictures: open it in a browser",
    "report.md": "test and validation under both shot rules, top-5, versions",
    "results.json": "all of its numbers",
}
_RULE = "standard"


def title(config: Config) -> str:
    """What the report of a run is called: data set, system, seed."""
    system = systems.recipe_of(config).title
    return f"{config.data.name}: {system}, seed {config.seed}"


def head_names(config: Config) -> dict[str, str]:
    """What the heads of a run are called.

    Once the towers are pre-trained, zero-shot is no longer that of CLIP.
    """
    if config.pretrain.epochs:
        zero_shot = "Zero-shot, pre-trained towers"
    else:
        zero_shot = "Zero-shot CLIP" if config.init.clip else "Zero-shot, random towers"
    own = systems.recipe_of(config).head_names()
    return {**tables.HEAD_NAMES, "zero_shot": zero_shot, **own}


def of_stage(summary: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """What a stage has made, and how long it took.

    Args:
      summary: of its artifact.
      names: see :func:`head_names`.
    """
    duration = f"in {console.format_duration(summary['seconds'])}"
    if "test" in summary:
        return f"{of_head(summary, names)}, {duration}"
    if "steps" in summary:
        losses = summary.get("losses") or {}
        told = [f"{name} {value:.4g}" for name, value in losses.items()][:1]
        made = f"{summary['steps']:,} steps, {summary['images_seen']:,} images"
        return ", ".join([f"{made} {duration}", *told])
    if "anchors" in summary:
        chosen, known = summary["anchors"], summary["sentences"]
        return f"{chosen:,} of {known:,} sentences chosen {duration}"
    if "sentences" in summary:
        made = f"{summary['sentences']:,} sentences, {summary['images']:,} images"
        return f"{made} {duration}"
    return f"finished {duration}"


def of_head(told: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Test accuracies of the head a run was made for, in percent.

    Args:
      told: a summary of evaluation, or results: `test`, and `predicted_by`; without
        that the first head is taken.
      names: of heads.
    """
    head = told.get("predicted_by") or next(iter(told["test"]), None)
    if head is None:
        return "no head was evaluated"
    result = told["test"][head]
    groups = {"overall": result["top1"], **result["shots"][_RULE]}
    known = [f"{v:.1f} {name}" for name, v in groups.items() if v is not None]
    return f"test {', '.join(known)} ({names[head]})"


def tell_end(workdir: epath.Path, config: Config, results: Mapping[str, Any]) -> None:
    """Prints the result of a run, which files have the rest, and what comes next.

    Args:
      workdir: of a finished run.
      config: of it.
      results: as in results.json.
    """
    if not console.is_first_process():
        return
    names = head_names(config)
    text = tables.screen(results, title(config), config.model.backbone, names)
    brief = f"{of_head(results, names)}: {workdir / 'report.md'}"
    console.result(text, brief)
    left = {name: what for name, what in _REPORTS.items() if (workdir / name).exists()}
    listed = [f"  {name:<14}{what}" for name, what in left.items()]
    console.say("\n".join([f"{workdir} has", *listed]))
    where = shlex.quote(str(workdir))
    console.say(
        f"next: {usage.program('python')} -m vl_ltr_jax.predict --workdir={where} "
        f"PICTURE.jpg\n      {usage.program('tensorboard')} --logdir {where}"
    )
