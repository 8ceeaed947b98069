"""The main job killed again and again, and its workdir compared bit for bit.

    python tests/processes/soak.py --kills=25 --config=configs/shapes_lt.py --seed=0

Makes a run in DIR/unbroken, and another in DIR/killed, with --workdir=DIR. The second
one dies by SIGKILL, SIGTERM and SIGINT, in every stage, at chosen and random moments.
Then it may finish. The exit code is 1 if anything was lost or added. DIR is emptied
first; by default it is a temporary directory, which stays if there are faults.
"""

import argparse
import dataclasses
import json
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from absl import logging

sys.path.insert(0, str(Path(__file__).parents[1]))
from processes import moments, same_bits
from processes.moments import Moment
from processes.watched_run import STAGES, TRAINING, Job, WatchedRun
from vl_ltr_jax.runtime import preemption

PATIENCE_SECONDS = 180.0  # for an exit, on a busy machine
# A kill is no fault of the files that the next start reads.
FAULTS = ("Traceback", "cannot be read", "made again", "is in use", "cannot write")
NUMBERS = {name: getattr(signal, f"SIG{name}") for name in ("KILL", "TERM", "INT")}
CODES = {
    "KILL": -signal.SIGKILL,
    "TERM": preemption.EXIT_CODE,
    "INT": preemption.INTERRUPTED_CODE,
}


@dataclasses.dataclass
class Kill:
    """One end of a run.

    Attributes:
      moment: awaited one.
      action: name of a signal.
      stage: under way at the signal.
      step: last one in a line of progress.
      code: exit code; None if the run ended before the signal, or did not end.
      faults: messages.
    """

    moment: Moment
    action: str
    stage: str = ""
    step: int = -1
    code: int | None = None
    faults: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        place = self.stage if self.step < 0 else f"{self.stage} at step {self.step}"
        line = f"{self.moment.name:14} {self.action:4} in {place:24} code {self.code}"
        return "".join([line, *(f"\n  FAULT: {fault}" for fault in self.faults)])


def finish(job: Job, workdir: Path) -> list[str]:
    """Runs to the end; returns faults."""
    run = WatchedRun(job, workdir)
    try:
        code = run.end(3600)
    finally:
        run.close()
    faults = [f"the last start: {line}" for line in _wrong_lines(run)]
    return faults + ([f"the last start ended with {code}"] if code else [])


def kill_at(
    job: Job, workdir: Path, moment: Moment, action: str, draw: random.Random
) -> tuple[Kill, WatchedRun]:
    """Starts a run and ends it at a moment, or at the end of the moment's stage."""
    kill = Kill(moment, action)
    run = WatchedRun(job, workdir)
    try:
        index = run.until(
            lambda: moment.reached(run), lambda: run.finished(moment.stage)
        )
        if index is not None:
            time.sleep(draw.uniform(0, 0 if index else moment.after))
            _end(run, kill)
    finally:
        run.close()
    return kill, run


def _end(run: WatchedRun, kill: Kill) -> None:
    """Sends the signal, and checks the end."""
    number = NUMBERS[kill.action]
    caught = number == signal.SIGKILL or run.catches(number)
    kill.stage = run.stage()
    kill.step = run.step(kill.stage)
    run.process.send_signal(number)
    kill.code = run.end(PATIENCE_SECONDS)
    if kill.code is None:
        kill.faults.append(f"alive {PATIENCE_SECONDS:.0f} s later")
        return
    codes = {CODES[kill.action]}
    if not caught:  # Python has not come to our code
        codes.add(-number)
    if run.renewed("report.html"):
        codes.add(0)
    if kill.code not in codes:
        kill.faults.append(f"exit code {kill.code}, not one of {sorted(codes)}")
    if number != signal.SIGKILL and kill.stage in TRAINING and kill.step >= 0:
        kill.faults += _not_saved(run, kill)
    if caught:
        kill.faults += _wrong_lines(run)


def _not_saved(run: WatchedRun, kill: Kill) -> list[str]:
    """Compares the step that a run prints at its end with its checkpoints."""
    if run.finished(kill.stage):
        return []
    matches = [re.search(r"; step (\d+) is saved", line) for line in run.lines]
    printed = [int(match[1]) for match in matches if match]
    steps = run.steps(kill.stage)
    if not printed or printed[0] < kill.step or steps[-1:] != printed:
        return [f"step {kill.step}: printed as saved {printed}; there are {steps}"]
    return []


def _wrong_lines(run: WatchedRun) -> list[str]:
    return [line for line in run.lines if any(word in line for word in FAULTS)]


def plan(unbroken: Path, kills: int, draw: random.Random) -> list[tuple[Moment, str]]:
    """Returns moments and signals in the order of the stages.

    Each stage has chosen ones; random ones follow, until there are enough.
    """
    summaries = {
        stage: json.loads((unbroken / stage / "artifact.json").read_text())
        for stage in STAGES
    }

    def some_steps(stage: str) -> Moment:
        return moments.step(stage, draw.randint(1, max(1, summary["steps"] // 8)))

    planned = [(moments.inputs(), "TERM"), (moments.inputs(), "INT")]
    for stage, summary in summaries.items():
        if stage in TRAINING:
            kinds = [(some_steps(stage), "TERM"), (moments.saving(stage), "KILL")]
            kinds += [(moments.restoring(stage), "KILL"), (some_steps(stage), "INT")]
            if (unbroken / stage / "views").exists():
                kinds.insert(0, (moments.arrays(stage, "views"), "KILL"))
            more = [(some_steps(stage), draw.choice(["KILL", "TERM"]))]
        else:
            middle = moments.under_way(stage, summary["seconds"] / 2)
            kinds = [(middle, "TERM"), (moments.arrays(stage), "KILL")]
            more = [(middle, draw.choice(["KILL", "TERM", "INT"]))]
        planned += kinds + more * (max(0, kills - 20) // len(STAGES))
        planned.append((moments.handing_over(stage), draw.choice(["KILL", "TERM"])))
    return [*planned, (moments.page(), "KILL"), (moments.page(), "TERM")]


def soak(
    job: Job, directory: Path, kills: int, seed: int
) -> tuple[list[Kill], list[str]]:
    """Makes both runs; returns all kills and faults."""
    unbroken, killed = directory / "unbroken", directory / "killed"
    if faults := finish(job, unbroken):
        return [], faults
    draw, ended, resumed = random.Random(seed), list[Kill](), {}
    for moment, action in plan(unbroken, kills, draw):
        if (killed / moment.stage / "artifact.json").exists():
            continue
        kill, run = kill_at(job, killed, moment, action, draw)
        resumed |= resumed_steps(run)
        if kill.code is None and not kill.faults:
            print(f"missed, ended before: {moment.stage}: {moment.name}", flush=True)
            continue
        ended.append(kill)
        print(f"{len(ended):3} {kill}", flush=True)
    faults = [f"{kill.moment.name}: {fault}" for kill in ended for fault in kill.faults]
    faults += finish(job, killed)
    faults += same_bits.leftovers(killed)
    faults += same_bits.differences(unbroken, killed, resumed)
    return ended, faults


def resumed_steps(run: WatchedRun) -> dict[tuple[int, str], int]:
    """Returns first steps by process and stage."""
    matches = [re.match(r"(\w+): resumes at step (\d+)", line) for line in run.lines]
    return {(run.process.pid, m[1]): int(m[2]) for m in matches if m}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--config", type=Path, default="configs/shapes_lt.py")
    parser.add_argument("--workdir", type=Path, help="is emptied; default a temporary")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("flags", nargs="*", help="for both runs, behind --")
    options = parser.parse_args(arguments)
    logging.set_verbosity(logging.ERROR)
    # A shell that puts a job in the background lets it ignore Ctrl-C: not the runs.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    workdir = options.workdir or Path(tempfile.mkdtemp(prefix="soak_"))
    shutil.rmtree(workdir, ignore_errors=True)
    workdir.mkdir(parents=True)
    flags = ("--config.log.checkpoint_every_steps=25", *options.flags)
    flags += ("--config.log.progress_seconds=0",)
    job = Job(options.config, flags, workdir / "programs")
    ended, faults = soak(job, workdir, options.kills, options.seed)
    for fault in faults:
        print(f"FAULT: {fault}")
    print(f"{len(ended)} kills, {len(faults)} faults; the runs are in {workdir}")
    if not faults and options.workdir is None:
        shutil.rmtree(workdir)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
