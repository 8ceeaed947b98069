"""Comparison of the systems of the paper's tables on one data set, over seeds.

python -m vl_ltr_jax.compare --config=configs/shapes_lt.py --workdir=DIR --seeds=3

Each system is a change of VL-LTR's configuration. Systems share stages, and finished
stages are not run again. `compare.md` and `compare.csv` are written after each run, the
figure `compare.svg` after each seed.
"""

import os
from collections.abc import Sequence

from absl import flags

from vl_ltr_jax.commands import exits
from vl_ltr_jax.commands import flags as commands_flags
from vl_ltr_jax.commands.command import Command
from vl_ltr_jax.comparison.runs import Comparison, methods_of
from vl_ltr_jax.logs import console
from vl_ltr_jax.runtime import compilation_cache, preemption
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.storage import lock

_SEEDS = flags.DEFINE_integer("seeds", 3, "Number of seeds, from 0.")
_METHODS = flags.DEFINE_list(
    "methods",
    ["all"],
    "Names of systems, or the groups 'all', 'systems' and 'ablations'.",
)
COMMAND = Command(
    "vl_ltr_jax.compare",
    "Runs several systems on one data set over several seeds, and writes their table: "
    "compare.md, compare.csv and compare.svg. Systems share stages, and finished "
    "stages are not run again.",
    (
        (
            "two systems in minutes on a CPU, nothing to download",
            "--config=configs/shapes_lt.py --workdir=runs/compare "
            "--methods=vl_ltr,baseline --seeds=1",
        ),
        (
            "all systems of the paper's tables, without the ablations",
            "--config=configs/image_list.py --workdir=runs/compare_mine "
            "--methods=systems --config.data.root=ROOT --config.data.name=NAME",
        ),
    ),
)


def main(argv: Sequence[str]) -> None:
    """Runs the comparison and prints the tables."""
    del argv
    preemption.end_on_sigterm(console.warn)
    with exits.refusing():
        names = methods_of(_METHODS.value)
        if commands_flags.SHOW_CONFIG.value:
            commands_flags.show_config(names, command=COMMAND)
            return
        config, directory = commands_flags.checked_flags(COMMAND)
        commands_flags.join_processes()
        meshes.devices()
        if commands_flags.TAKE_OVER.value:
            lock.take_over(directory)
        setting = config.mesh.compilation_cache
        compilation_cache.use(compilation_cache.of_run(setting, directory))
        comparison = Comparison(config, directory)
        comparison.check(names, _SEEDS.value)
        table = comparison.run(names, _SEEDS.value)
    console.result(table, os.fspath(directory / "compare.md"))


def run() -> None:
    """Runs the command in this process."""
    commands_flags.start(main, COMMAND)
