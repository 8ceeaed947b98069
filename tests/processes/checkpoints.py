"""How long a checkpoint holds up training, and what share of a run that is.

    python tests/processes/checkpoints.py --backbone=ViT-B/16 --step_seconds=9.4
    python tests/processes/checkpoints.py --run=runs/shapes_lt

Saves the state of pre-training (parameters and both moments of AdamW, float32) as a run
does; between saves AdamW changes every array, which a step would, and donates them.
Without `--step_seconds` a whole step is timed first. `--run` reads what a run has said
of its own saves. The exit code is 1 where the share is 2 % or more.
"""

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax

from vl_ltr_jax.benchmarks import paired, sentences, train_step
from vl_ltr_jax.checkpoint.manager import Checkpoints
from vl_ltr_jax.commands import exits
from vl_ltr_jax.config import settings
from vl_ltr_jax.logs import event_files
from vl_ltr_jax.models.clip import PRESETS
from vl_ltr_jax.runtime import cpu_memory
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.storage import paths
from vl_ltr_jax.storage.workdir import WorkdirError
from vl_ltr_jax.train import optim
from vl_ltr_jax.train.idle_time import WORKS
from vl_ltr_jax.train.stage import first_state
from vl_ltr_jax.train.state import TrainState

MAX_SHARE = 0.02
_BATCH_SIZE = 8


class Save(NamedTuple):
    """One save, in seconds.

    Attributes:
      blocking: until training may go on.
      writing: from then on, until it is committed.
      step: the work on the device meanwhile, the first after the save.
      alone: the same work when nothing is written.
    """

    blocking: float
    writing: float
    step: float
    alone: float


class Stage(NamedTuple):
    """What a run has logged of a stage: milliseconds a step, and the share of saves."""

    checkpoint_ms: float
    step_ms: float
    share: float


def measure(backbone: str, num_saves: int, keep: int) -> tuple[int, list[Save]]:
    """Saves the state of pre-training again and again, once more than is told.

    Args:
      backbone: a name in `models.clip.PRESETS`.
      num_saves: that are told; the first of all compiles, and makes the directory.
      keep: how many lie on the disk at most.

    Returns:
      Bytes of the state, and the saves.
    """
    variables = sentences.random_variables(PRESETS[backbone])
    optimizer = optim.make_optimizer(
        variables["params"],
        schedule=optax.constant_schedule(1e-4),
        weight_decay=settings.Pretrain().weight_decay,
    )

    def step(state: TrainState) -> TrainState:
        updates, opt_state = optimizer.update(
            state.params, state.opt_state, state.params
        )
        return dataclasses.replace(
            state,
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
        )

    state, shardings = first_state(variables, optimizer, meshes.make_mesh(), "none")
    del variables
    work = jax.jit(step, donate_argnums=0, out_shardings=shardings)
    state = jax.block_until_ready(work(state))
    saves = []
    with (
        tempfile.TemporaryDirectory() as directory,
        Checkpoints(directory, every_steps=1, keep=keep) as checkpoints,
    ):
        for number in range(1, num_saves + 2):
            start = time.perf_counter()
            checkpoints.save(number, state, {"seconds": start})
            saved = time.perf_counter()
            state = jax.block_until_ready(work(state))
            stepped = time.perf_counter()
            checkpoints.wait()
            written = time.perf_counter()
            state = jax.block_until_ready(work(state))
            alone = time.perf_counter() - written
            saves.append(Save(saved - start, written - saved, stepped - saved, alone))
    return sum(leaf.nbytes for leaf in jax.tree.leaves(state)), saves[1:]


def step_seconds(backbone: str, batch_size: int) -> float:
    """Seconds of a whole step of pre-training, the second one."""
    job = train_step.Job.of(backbone, batch_size)
    program = train_step.Ours(job).programs()[paired.WHOLE]()
    program.call()
    start = time.perf_counter()
    program.call()
    return time.perf_counter() - start


def share(blocking: float, every_steps: int, seconds: float) -> float:
    """Of the wall time, that saves take.

    Args:
      blocking: seconds of a save.
      every_steps: interval of saves.
      seconds: of a step.
    """
    return blocking / (blocking + every_steps * seconds)


def of_run(workdir: Path) -> dict[str, Stage]:
    """What each training stage of a run has logged; intervals count by their steps.

    Raises:
      WorkdirError: there is none.
    """
    found = {}
    for stage in sorted(path.parent for path in workdir.glob("*/checkpoints")):
        curves = event_files.read_scalars(stage)
        parts: dict[str, Any] = {
            part: curves[f"step_time/{part}_ms"][1].mean()
            for part in (*WORKS, "step")
            if f"step_time/{part}_ms" in curves
        }
        if parts:
            saving = parts["checkpoint"]
            whole = sum(parts.values())
            found[stage.name] = Stage(saving, whole, saving / whole)
    if not found:
        raise WorkdirError(
            f"--run={workdir} holds no stage with event files; name the --workdir of a "
            "run of vl_ltr_jax.main"
        )
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Prints each save, and the share of the wall time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", choices=PRESETS, default="ViT-B/16")
    parser.add_argument("--saves", type=paired.count, default=5)
    parser.add_argument("--keep", type=paired.count, default=1)
    parser.add_argument(
        "--every_steps", type=paired.count, default=settings.Log.checkpoint_every_steps
    )
    parser.add_argument("--step_seconds", type=float, help="of a training step")
    parser.add_argument("--batch_size", type=paired.count, default=_BATCH_SIZE)
    parser.add_argument("--run", type=Path, help="workdir of a run, to be read")
    words = sys.argv[1:] if argv is None else argv
    given = parser.parse_args(paths.expand_arguments(words))
    if given.step_seconds is not None and given.step_seconds <= 0:
        parser.error(f"--step_seconds={given.step_seconds:g} is not above 0")
    if given.run:
        with exits.refusing():
            stages = of_run(given.run)
        for name, stage in stages.items():
            print(
                f"{name}: {stage.checkpoint_ms:.2f} of {stage.step_ms:.2f} ms a step, "
                f"{stage.share:.2%} of the wall time"
            )
        _end([stage.share for stage in stages.values()])
    cpu_memory.keep()  # as the main job does, before JAX runs
    seconds = given.step_seconds or step_seconds(given.backbone, given.batch_size)
    size, saves = measure(given.backbone, given.saves, given.keep)
    print(f"{given.backbone}: a state of {size / 1e9:.2f} GB")
    for save in saves:
        print(
            f"{save.blocking:.3f} s until training goes on, {save.writing:.2f} s more "
            f"until it is written; AdamW takes {save.step:.2f} s meanwhile, "
            f"{save.alone:.2f} s alone"
        )
    blocking = statistics.median(save.blocking for save in saves)
    found = share(blocking, given.every_steps, seconds)
    print(
        f"{blocking:.3f} s every {given.every_steps} steps of {seconds:.3f} s: "
        f"{found:.3%} of the wall time"
    )
    _end([found])


def _end(shares: Sequence[float]) -> None:
    sys.exit(int(max(shares) >= MAX_SHARE))


if __name__ == "__main__":
    main()
