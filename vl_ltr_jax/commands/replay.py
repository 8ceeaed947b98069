"""A training step looked at again: one whose loss was not finite, or any other.

    python -m vl_ltr_jax.replay --workdir=DIR [--stage=pretrain] [--step=N]

Where a step's loss or gradient is NaN or infinite, a run keeps what the step was given.
This restores the checkpoint before it, makes the steps up to it again and tells what
is wrong in it: parameters, gradients, rows of the batch; and what to try. It writes
nothing into DIR. The exit code is 0 if it could look, 2 if there was nothing to look
at.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from etils import epath

from vl_ltr_jax.commands import exits
from vl_ltr_jax.config import build as configs
from vl_ltr_jax.data.images.decode import ImageReadError
from vl_ltr_jax.logs import console
from vl_ltr_jax.report import contact_sheet
from vl_ltr_jax.run import inputs as run_inputs
from vl_ltr_jax.run import saved
from vl_ltr_jax.run.head_training import TrainingStage
from vl_ltr_jax.run.replay import diagnosis, repeat
from vl_ltr_jax.run.replay.repeat import Repeat, WrongRow
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.runtime import compilation_cache, cpu_memory, errors
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.runtime.errors import UserError
from vl_ltr_jax.stages import pipeline
from vl_ltr_jax.storage import paths
from vl_ltr_jax.storage.workdir import path_of
from vl_ltr_jax.train import incidents
from vl_ltr_jax.train.incidents import Incident

_HELP = """\
Looks again at a training step whose loss or gradient was not finite: makes it again
from the checkpoint before it, and tells what is wrong in it and what to try. Any other
step can be looked at too. Nothing is written into the workdir."""
_EXAMPLES = """\
examples:
  # the newest step of a run that was not finite
  python -m vl_ltr_jax.replay --workdir=runs/mine

  # a step that was, but whose loss spiked; and rows that are wrong as pictures
  python -m vl_ltr_jax.replay --workdir=runs/mine --stage=pretrain --step=1200
  python -m vl_ltr_jax.replay --workdir=runs/mine --out=sheet.png

The repeat is equal to the run to the last bit on the same kind and number of devices.
The exit code is 0 if it could look, 2 if there was nothing to look at."""
_MOST, _COLUMNS = 24, 3  # rows on a sheet


class ReplayError(UserError):
    """A step that is not there."""


def replay(
    workdir: epath.Path,
    stage: str | None = None,
    step: int | None = None,
    *,
    from_start: bool = False,
) -> tuple[Repeat, Run]:
    """Makes a training step again and looks at it.

    Args:
      workdir: of a run, finished or not; nothing is written there.
      stage: that trains; by default that of the step.
      step: from 1; by default the newest that was not finite.
      from_start: makes all steps before it again, not those since a checkpoint.

    Returns:
      What was seen, and the run.

    Raises:
      ReplayError: if there is no such step.
      UserError: if the run's files cannot be read, or do not fit.
    """
    config = saved.config_of(workdir)
    configs.check(config)  # paths of another machine, or that are gone
    # Threads give the same batches, and need no start by absl.
    config = dataclasses.replace(
        config, data=dataclasses.replace(config.data, num_workers=0)
    )
    inputs = run_inputs.read(config)
    mesh = meshes.make_mesh(config.mesh.data, config.mesh.model)
    run = Run(config, workdir, inputs, mesh, writes=False)
    road = pipeline.stages_of(config)
    trained = {
        name: found
        for name in pipeline.planned(config, inputs)
        if isinstance(found := road[name], TrainingStage)
    }
    name, number = _which(run, list(trained), stage, step)
    run.artifact(name).check()
    incident: Incident | None = None
    directory = run.artifact(name).directory
    if number in incidents.steps(directory):
        incident = incidents.read(incidents.path_of(directory, number))
    seen = repeat.repeat(
        run, name, trained[name], number, incident, from_start=from_start
    )
    return seen, run


def _which(
    run: Run, trained: list[str], stage: str | None, step: int | None
) -> tuple[str, int]:
    """The stage and step that are meant."""
    if stage is not None and stage not in trained:
        raise ReplayError(
            f"--stage={stage}: this run trains {', '.join(trained) or 'nothing'}"
        )
    kept = {name: incidents.steps(run.artifact(name).directory) for name in trained}
    listed = [
        f"--stage={name} --step={number}"
        for name, numbers in kept.items()
        for number in numbers
    ]
    for name in reversed([stage] if stage is not None else trained):
        numbers = [n for n in kept[name] if step is None or n == step]
        if numbers:
            return name, numbers[-1]
    if step is not None and (stage is not None or len(trained) == 1):
        return stage or trained[0], step
    there = "; there are " + ", ".join(listed) if listed else ""
    if step is None:
        where = f"{run.workdir}" + (f", stage {stage}" if stage else "")
        raise ReplayError(
            f"{where} has kept no step that was not finite{there}. Name any step by "
            "--stage and --step, to look at that"
        )
    raise ReplayError(
        f"--step={step}: of which stage? Add --stage= and one of {', '.join(trained)}"
        + there
    )


def sheet_of(seen: Repeat, run: Run) -> list[contact_sheet.SheetExample]:
    """The first rows that are wrong, as a contact sheet has them."""
    whole, split = run_inputs.eval_transform(run.config), run.inputs.data.train

    def shown(one: WrongRow) -> contact_sheet.SheetExample:
        try:
            picture = whole(split.read(one.index))
        except ImageReadError:  # another of its class was taken
            side = run.config.model.image_size
            picture = np.zeros((side, side, 3), np.uint8)
        name = run.inputs.data.class_names[one.label]
        return contact_sheet.SheetExample(
            picture if one.pixels is None else one.pixels,
            picture,
            f"row {one.row}: {', '.join(one.found)} of {name} (label {one.label})",
            one.sentence,
            one.image,
        )

    return [shown(one) for one in seen.wrong[:_MOST]]


def main(arguments: Sequence[str]) -> int:
    """Runs the command line.

    Returns:
      The exit code.
    """
    given = _parse(arguments)
    try:
        if given.out is not None:
            contact_sheet.check_place(given.out)
        workdir = path_of(given.workdir)
        with errors.system_faults():
            meshes.devices()
            compilation_cache.read_from(workdir)
            seen, run = replay(
                workdir, given.stage, given.step, from_start=given.from_start
            )
            print((diagnosis.to_json if given.json else diagnosis.to_text)(seen, run))
            if given.out is not None:
                _write_sheet(seen, run, given.out)
    except UserError as error:
        return exits.report(error)
    return 0


def _write_sheet(seen: Repeat, run: Run, out: Path) -> None:
    examples = sheet_of(seen, run)
    if not examples:
        console.warn(f"no row is wrong by itself: {out} is not written")
        return
    contact_sheet.write(contact_sheet.contact_sheet(examples, _COLUMNS), out)
    console.say(f"{len(examples)} of {len(seen.wrong)} rows are on {out}")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m vl_ltr_jax.replay",
        description=_HELP,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--workdir", required=True, help="of a run, finished or not")
    parser.add_argument("--stage", help="pretrain, finetune or classifier")
    parser.add_argument(
        "--step", type=int, help="from 1; by default the newest that was not finite"
    )
    parser.add_argument(
        "--from_start",
        action="store_true",
        help="make all steps again, not those since a checkpoint",
    )
    parser.add_argument("--json", action="store_true", help="one object for machines")
    parser.add_argument(
        "--out", type=Path, help="picture file of the rows that are wrong"
    )
    return parser.parse_args(paths.expand_arguments(arguments))


def run() -> None:
    """Runs the command in this process."""
    if cpu_memory.runs_on_cpu():
        cpu_memory.keep()
    sys.exit(main(sys.argv[1:]))
