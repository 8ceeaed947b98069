"""Repeat of a training step: one whose loss was not finite, or any other.

    python -m vl_ltr_jax.replay --workdir=DIR [--stage=pretrain] [--step=N]

A run saves the input of each step whose loss or gradient is NaN or infinite. This
command restores the checkpoint before the step, repeats the steps up to it, and prints
norms of parameters, gradients and examples. DIR stays as it is. The exit code is 2
without such a step.
"""

import argparse
import dataclasses
import math
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
from vl_ltr_jax.run.head_training import TrainingStage
from vl_ltr_jax.run.replay import repeat, table
from vl_ltr_jax.run.replay.repeat import FaultyRow, Repeat
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.run.saved import SavedRun
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
_MAX_EXAMPLES, _COLUMNS = 24, 3  # of a sheet


class ReplayError(UserError):
    """The run has no such step."""


def replay(
    workdir: epath.Path,
    stage: str | None = None,
    step: int | None = None,
    *,
    from_start: bool = False,
) -> tuple[Repeat, Run]:
    """Repeats a training step.

    Args:
      workdir: directory of a run, finished or not; it stays as it is.
      stage: training stage; by default the last with a step that was not finite.
      step: number from 1; by default the newest that was not finite.
      from_start: repeats all steps before it, not those since a checkpoint.

    Returns:
      The repeated step and the run.

    Raises:
      ReplayError: the run has no such step.
      UserError: files of the run are damaged, or do not fit.
    """
    config = SavedRun(workdir).config
    configs.check(config)  # its paths may be of another machine
    # Threads give the same batches; worker processes need absl's start.
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
    repeated = repeat.repeat(
        run, name, trained[name], number, incident, from_start=from_start
    )
    return repeated, run


def _which(
    run: Run, trained: list[str], stage: str | None, step: int | None
) -> tuple[str, int]:
    """Returns the stage and the step to repeat."""
    if stage is not None and stage not in trained:
        raise ReplayError(
            f"--stage={stage}: this run trains {', '.join(trained) or 'nothing'}."
        )
    saved_steps = {
        name: incidents.steps(run.artifact(name).directory) for name in trained
    }
    for name in reversed([stage] if stage is not None else trained):
        numbers = [n for n in saved_steps[name] if step is None or n == step]
        if numbers:
            return name, numbers[-1]
    if step is not None and (stage is not None or len(trained) == 1):
        return stage or trained[0], step
    choices = ", ".join(
        f"--stage={name} --step={number}"
        for name, numbers in saved_steps.items()
        for number in numbers
    )
    saved_text = f" Saved are {choices}." if choices else ""
    if step is None:
        raise ReplayError(
            f"--workdir={run.workdir}: no step was saved as not finite.{saved_text} "
            "Name any step by --stage and --step."
        )
    raise ReplayError(
        f"--step={step}: add --stage= and one of {', '.join(trained)}.{saved_text}"
    )


def sheet_of(repeated: Repeat, run: Run) -> list[contact_sheet.SheetExample]:
    """Returns the first faulty examples of a step for a contact sheet."""
    evaluate, split = run_inputs.eval_transform(run.config), run.inputs.data.train

    def sheet_example(row: FaultyRow) -> contact_sheet.SheetExample:
        try:
            picture = evaluate(split.read(row.index))
        except ImageReadError:  # training drew another image of its class
            side = run.config.model.image_size
            picture = np.zeros((side, side, 3), np.uint8)
        name = run.inputs.data.class_names[row.label]
        return contact_sheet.SheetExample(
            picture if repeated.pixels is None else repeated.pixels[row.row],
            picture,
            f"row {row.row}: {', '.join(row.not_finite)} of {name} (label {row.label})",
            row.sentence,
            row.image,
        )

    return [sheet_example(row) for row in repeated.faulty[:_MAX_EXAMPLES]]


@exits.with_codes
def main(arguments: Sequence[str]) -> int:
    """Runs the command line and returns its exit code."""
    parsed = parse(_parser(), arguments)
    if parsed.out is not None:
        contact_sheet.check_place(parsed.out)
    workdir = path_of(parsed.workdir)
    meshes.devices()
    programs = workdir / compilation_cache.NAME
    compilation_cache.use(programs, min_seconds=math.inf)  # adds no program
    repeated, run = replay(
        workdir, parsed.stage, parsed.step, from_start=parsed.from_start
    )
    print((table.to_json if parsed.json else table.to_text)(repeated, run))
    if parsed.out is not None:
        _write_sheet(repeated, run, parsed.out)
    return 0


def _write_sheet(repeated: Repeat, run: Run, out: Path) -> None:
    examples = sheet_of(repeated, run)
    if not examples:
        console.warn(f"--out={out}: not written, since no example is faulty by itself")
        return
    contact_sheet.write(contact_sheet.contact_sheet(examples, _COLUMNS), out)
    console.say(f"{len(examples)} of {len(repeated.faulty)} faulty examples: {out}")


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
