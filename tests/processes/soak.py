"""The main job killed again and again, and its workdir compared bit for bit.

    python tests/processes/soak.py --config=configs/shapes_lt.py --workdir=DIR

Makes a run in DIR/unbroken, and another in DIR/killed. The second one dies by SIGKILL,
SIGTERM and SIGINT in every stage. Then it may finish. The exit code is 1 if anything
was lost or added. DIR is emptied first.
"""

import argparse
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import logging

sys.path.insert(0, str(Path(__file__).parents[1]))
from processes import same_bits
from processes.watched_run import Job, WatchedRun
from vl_ltr_jax.runtime import preemption

TRAINING = ("pretrain", "finetune")
STAGES = ("pretrain", "embed", "anchors", "finetune", "evaluate")
PATIENCE_SECONDS = 180.0  # for an exit, on a busy machine
# A kill is no fault of the files that the next start reads.
FAULTS = ("Traceback", "cannot be read", "made again", "is in use", "cannot write")
CODES = {
    "KILL": -signal.SIGKILL,
    "TERM": preemption.EXIT_CODE,
    "INT": preemption.INTERRUPTED_CODE,
}
MOMENTS: dict[str, Callable[[WatchedRun, str], bool]] = {
    "start": lambda run, stage: run.starts(stage),
    "steps": lambda run, stage: len(run.progress(stage)) > 2,
    "checkpoint": lambda run, stage: run.writes(
        "checkpoint-tmp", f"{stage}/checkpoints"
    ),
    "array": lambda run, stage: run.writes(".npy", stage),
    "artifact": lambda run, stage: run.finished(stage),
    "page": lambda run, stage: run.writes("report.html"),
}


class Kill(NamedTuple):
    """One end of a run.

    Attributes:
      stage: of the run.
      moment: name of a moment in it.
      action: name of a signal.
      after: maximum of seconds to wait then.
    """

    stage: str
    moment: str
    action: str
    after: float = 0.0


def finish(job: Job, workdir: Path) -> list[str]:
    """Runs to the end; returns faults."""
    run = WatchedRun(job, workdir)
    try:
        code = run.end(3600)
    finally:
        run.close()
    return _wrong_lines(run) + ([f"the last start ended with {code}"] if code else [])


def make(job: Job, workdir: Path, kill: Kill, draw: random.Random) -> list[str] | None:
    """Starts a run and kills it; returns faults, or None if it was too late."""
    run = WatchedRun(job, workdir)
    try:
        if not run.until(lambda: MOMENTS[kill.moment](run, kill.stage)):
            return None
        time.sleep(draw.uniform(0, kill.after))
        steps, finished = run.progress(kill.stage), run.finished(kill.stage)
        run.process.send_signal(getattr(signal, f"SIG{kill.action}"))
        code = run.end(PATIENCE_SECONDS)
    finally:
        run.close()
    if code == 0 and run.writes("report.html"):
        return []
    faults = [] if code == CODES[kill.action] else [f"exit code {code}"]
    if kill.action != "KILL":
        faults += _wrong_lines(run)
        if kill.stage in TRAINING and steps and not finished:
            faults += _not_saved(run, kill.stage, steps[-1])
    return faults


def _not_saved(run: WatchedRun, stage: str, step: int) -> list[str]:
    """Compares the step that a run prints at its end with its checkpoints."""
    if run.finished(stage):
        return []
    matches = [re.search(r"; step (\d+) is saved", line) for line in run.lines]
    printed = [int(match[1]) for match in matches if match]
    names = run.names(f"{stage}/checkpoints")
    steps = sorted(int(name) for name in names if name.isdigit())
    if not printed or printed[0] < step or steps[-1:] != printed:
        return [f"step {step}: printed as saved {printed}; there are {steps}"]
    return []


def _wrong_lines(run: WatchedRun) -> list[str]:
    return [line for line in run.lines if any(word in line for word in FAULTS)]


def plan() -> list[Kill]:
    """Returns kills in the order of the stages."""
    kills = []
    for stage in STAGES:
        kills.append(Kill(stage, "start", "TERM", after=1.0))
        if stage in TRAINING:
            kills += [Kill(stage, "steps", action, 2.0) for action in ("TERM", "INT")]
            kills.append(Kill(stage, "checkpoint", "KILL", after=0.02))
        else:
            kills.append(Kill(stage, "array", "KILL"))
        kills.append(Kill(stage, "artifact", "KILL"))
    return [*kills, Kill("report", "page", "KILL")]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default="configs/shapes_lt.py")
    parser.add_argument("--workdir", type=Path, required=True, help="is emptied")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("flags", nargs="*", help="for both runs, behind --")
    options = parser.parse_args(arguments)
    logging.set_verbosity(logging.ERROR)
    # A shell that puts a job in the background lets it ignore Ctrl-C: not the runs.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    shutil.rmtree(options.workdir, ignore_errors=True)
    options.workdir.mkdir(parents=True)
    flags = ("--config.log.checkpoint_every_steps=25", *options.flags)
    flags += ("--config.log.progress_seconds=0",)
    job = Job(options.config, flags, options.workdir / "programs")
    unbroken, killed = options.workdir / "unbroken", options.workdir / "killed"
    faults = finish(job, unbroken)
    draw = random.Random(options.seed)
    for kill in plan():
        if not (killed / kill.stage / "artifact.json").exists():
            problems = make(job, killed, kill, draw)
            print(kill, "came too late" if problems is None else problems, flush=True)
            faults += problems or []
    faults += finish(job, killed)
    faults += same_bits.leftovers(killed)
    faults += same_bits.differences(unbroken, killed)
    print(*faults, f"{len(faults)} faults", sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
