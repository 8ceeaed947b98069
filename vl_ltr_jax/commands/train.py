"""The main job: flags to configuration to stages.

python -m vl_ltr_jax.main --config=configs/shapes_lt.py --workdir=DIR
"""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from vl_ltr_jax.commands import exits
from vl_ltr_jax.commands import help as usage
from vl_ltr_jax.commands.flags import (
    RUN_FLAGS,
    SHOW_CONFIG,
    checked_flags,
    join_processes,
    show_config,
    start,
)
from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.logs import console
from vl_ltr_jax.report import tables, write
from vl_ltr_jax.run import inputs as run_inputs
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.runtime import compilation_cache, preemption
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.stages import pipeline
from vl_ltr_jax.stages.summary import of_head
from vl_ltr_jax.systems.titles import head_names, title

COMMAND = usage.Command(
    "vl_ltr_jax.main",
    "Trains and evaluates VL-LTR, or another system, on a long-tailed data set: from "
    "images and texts to a report. The same command goes on where it was stopped.",
    (
        (
            "a first run: minutes on a CPU, nothing to download",
            "--config=configs/shapes_lt.py --workdir=runs/shapes_lt",
        ),
        (
            "your own pictures; the head of the file says how they must lie under ROOT",
            "--config=configs/image_list.py --workdir=runs/mine "
            "--config.data.root=ROOT --config.data.name=NAME",
        ),
        (
            "a benchmark by another system; prints all settings and ends",
            "--config=configs/places_lt.py:backbone=RN50,method=crt --show_config",
        ),
    ),
    RUN_FLAGS,
)
# What a run leaves for people to read.
_REPORTS = {
    "report.html": "figures, sentences and pictures: open it in a browser",
    "report.md": "test and validation under both shot rules, top-5, versions",
    "results.json": "all of its numbers",
}


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


def main(argv: Sequence[str]) -> None:
    """Runs all stages."""
    del argv
    preemption.end_on_sigterm(console.warn)
    with exits.refusing():
        if SHOW_CONFIG.value:
            show_config(command=COMMAND)
            return
        config, workdir = checked_flags(COMMAND)
        join_processes()
        meshes.devices()
        compilation_cache.write_to(config.mesh.compilation_cache, workdir)
        inputs = run_inputs.read(config)
        pipeline.check(config, workdir, inputs)
        results = pipeline.run(config, workdir, inputs)
        mesh = meshes.make_mesh(config.mesh.data, config.mesh.model)
        write.write(Run(config, workdir, inputs, mesh), results)
    tell_end(workdir, config, results)


def run() -> None:
    """Runs the command in this process."""
    start(main, COMMAND)
