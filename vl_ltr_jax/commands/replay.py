"""A training step looked at again: one whose loss was not finite, or any other.

    python -m vl_ltr_jax.replay --workdir=DIR [--stage=pretrain] [--step=N]

Where a step's loss or gradient is NaN or infinite, a run keeps what the step was given.
This restores the checkpoint before it, makes the steps up to it again and prints the
norms of parameters, gradients and rows of the batch. It writes nothing into DIR. The
exit code is 0 if it could look, 2 if there was nothing to look at.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from etils import epath

from vl_ltr_jax.commands import exits, process
from vl_ltr_jax.commands.command import Command, parse
from vl_ltr_jax.config import build as configs
from vl_ltr_jax.data.images.decode import ImageReadError
from vl_ltr_jax.logs import console
from vl_ltr_jax.report import contact_sheet
from vl_ltr_jax.run import inputs as run_inputs
from vl_ltr_jax.run import saved
from vl_ltr_jax.run.head_training import TrainingStage
from vl_ltr_jax.run.replay import repeat, table
from vl_ltr_jax.run.replay.repeat import FaultyRow, Repeat
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.runtime import compilation_cache
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.runtime.errors import UserError
from vl_ltr_jax.stages import pipeline
from vl_ltr_jax.storage.workdir import path_of
from vl_ltr_jax.train import incidents
from vl_ltr_jax.train.incidents import Incident

COMMAND = Command(
    "vl_ltr_jax.replay",
    "Repeats a training step whose loss or gradient was not finite, or any other, from "
    "the checkpoint before it. Prints norms of parameters, gradients and examples. The "
    "workdir stays as it is. On the same kind and number of devices the repeat equals "
    "the run to the last bit. The exit code is 2 without such a step.",
    (
        ("the newest step that was not finite", "--workdir=runs/mine"),
        (
            "a step whose loss spiked",
            "--workdir=runs/mine --stage=pretrain --step=1200",
        ),
        (
            "examples that are not finite, as pictures",
            "--workdir=runs/mine --out=sheet.png",
        ),
    ),
)
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
    run = Run(config, workdir, inputs, writes=False)
    stages = pipeline.stages_of(config)
    trained = {
        name: training
        for name in pipeline.planned(config, inputs)
        if isinstance(training := stages[name], TrainingStage)
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

    def shown(one: FaultyRow) -> contact_sheet.SheetExample:
        try:
            picture = whole(split.read(one.index))
        except ImageReadError:  # another of its class was taken
            side = run.config.model.image_size
            picture = np.zeros((side, side, 3), np.uint8)
        name = run.inputs.data.class_names[one.label]
        return contact_sheet.SheetExample(
            picture if seen.pixels is None else seen.pixels[one.row],
            picture,
            f"row {one.row}: {', '.join(one.not_finite)} of {name} (label {one.label})",
            one.sentence,
            one.image,
        )

    return [shown(one) for one in seen.faulty[:_MOST]]


@exits.with_codes
def main(arguments: Sequence[str]) -> int:
    """Runs the command line and returns its exit code."""
    parsed = parse(_parser(), arguments)
    if parsed.out is not None:
        contact_sheet.check_place(parsed.out)
    workdir = path_of(parsed.workdir)
    meshes.devices()
    compilation_cache.read_from(workdir)
    seen, run = replay(workdir, parsed.stage, parsed.step, from_start=parsed.from_start)
    print((table.to_json if parsed.json else table.to_text)(seen, run))
    if parsed.out is not None:
        _write_sheet(seen, run, parsed.out)
    return 0


def _write_sheet(seen: Repeat, run: Run, out: Path) -> None:
    examples = sheet_of(seen, run)
    if not examples:
        console.warn(f"no row is wrong by itself: {out} is not written")
        return
    contact_sheet.write(contact_sheet.contact_sheet(examples, _COLUMNS), out)
    console.say(f"{len(examples)} of {len(seen.faulty)} rows are on {out}")


def _parser() -> argparse.ArgumentParser:
    parser = COMMAND.parser()
    parser.add_argument("--workdir", required=True, help="directory of a run")
    parser.add_argument("--stage", help="pretrain, finetune or classifier")
    parser.add_argument(
        "--step", type=int, help="from 1; by default the newest that was not finite"
    )
    parser.add_argument(
        "--from_start",
        action="store_true",
        help="repeat all steps from the first, not from a checkpoint",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--out", type=Path, help="picture file of the wrong examples")
    return parser


def run() -> None:
    """Runs the command in this process."""
    process.run(main)
