"""Main job: trains and evaluates a system from a configuration.

python -m vl_ltr_jax.main --config=configs/shapes_lt.py --workdir=DIR
"""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from vl_ltr_jax.commands import exits
from vl_ltr_jax.commands.command import Command, program
from vl_ltr_jax.commands.flags import (
    SHOW_CONFIG,
    TAKE_OVER,
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
from vl_ltr_jax.storage import lock
from vl_ltr_jax.systems.titles import head_names, title

COMMAND = Command(
    "vl_ltr_jax.main",
    "Trains and evaluates VL-LTR, or another system, on a long-tailed data set, and "
    "writes a report. A run that was stopped goes on by the same command.",
    (
        (
            "a first run: minutes on a CPU, nothing to download",
            "--config=configs/shapes_lt.py --workdir=runs/shapes_lt",
        ),
        (
            "your own pictures in the layout described in configs/image_list.py",
            "--config=configs/image_list.py --workdir=runs/mine "
            "--config.data.root=ROOT --config.data.name=NAME",
        ),
        (
            "settings of another system on a benchmark, printed",
            "--config=configs/places_lt.py:backbone=RN50,method=crt --show_config",
        ),
    ),
)
_REPORTS = {
    "report.html": "figures, sentences and pictures, for a browser",
    "report.md": "test and validation under both shot rules, top-5, versions",
    "results.json": "all numbers",
}


def print_summary(
    workdir: epath.Path, config: Config, results: Mapping[str, Any]
) -> None:
    """Prints the result of a finished run, its files, and commands to go on with.

    Args:
      workdir: of the run.
      config: of the run.
      results: content of results.json.
    """
    if not console.is_first_process():
        return
    names = head_names(config)
    text = tables.screen(results, title(config), config.model.backbone, names)
    brief = f"{of_head(results, names)}: {workdir / 'report.md'}"
    console.result(text, brief)
    files = [
        f"  {name:<14}{content}"
        for name, content in _REPORTS.items()
        if (workdir / name).exists()
    ]
    console.say("\n".join([f"{workdir} has", *files]))
    directory = shlex.quote(str(workdir))
    console.say(
        f"next: {program('python')} -m vl_ltr_jax.predict --workdir={directory} "
        f"PICTURE.jpg\n      {program('tensorboard')} --logdir {directory}"
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
        if TAKE_OVER.value:
            lock.take_over(workdir)
        setting = config.mesh.compilation_cache
        compilation_cache.use(compilation_cache.of_run(setting, workdir))
        inputs = run_inputs.read(config)
        pipeline.check(config, workdir, inputs)
        run = Run(config, workdir, inputs)
        results = pipeline.run(run)
        write.write(run, results)
    print_summary(workdir, config, results)


def run() -> None:
    """Runs the command in this process."""
    start(main, COMMAND)
