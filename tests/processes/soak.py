"""The main job killed again and again, and what it leaves compared bit for bit.

    python tests/processes/soak.py --kills=25 --config=configs/shapes_lt.py --seed=0

With --workdir=DIR a run is made in DIR/unbroken; another one in DIR/killed, which dies
at least as often as asked, by SIGKILL, SIGTERM and SIGINT, in every stage (so that a
small --kills is a minimum), at chosen moments and at random ones; then it may finish.
The exit code is 1 if anything was lost, or let in. DIR is emptied first; by default it
is a temporary directory, which stays where there are faults.
"""

import argparse
import collections
import dataclasses
import json
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import logging

sys.path.insert(0, str(Path(__file__).parents[1]))
from processes import moments, same_bits
from processes.moments import Moment
from processes.watched_run import STAGES, TRAINING, Job, WatchedRun
from vl_ltr_jax.runtime import preemption

PATIENCE_SECONDS = 180.0  # for an exit, on a machine that is busy with other things
# What a start may not say: a kill is no fault of what it finds.
FAULTS = ("Traceback", "cannot be read", "made again", "is in use", "cannot write")
NUMBERS = {name: getattr(signal, f"SIG{name}") for name in ("KILL", "TERM", "INT")}


@dataclasses.dataclass
class Kill:
    """One end of a run.

    Attributes:
      moment: that was waited for.
      action: names of signals, joined by `+`.
      late: the moment was over when it was seen.
      stage: in which the run was.
      step: that it had told of last.
      code: its exit code; None: it had to be killed.
      lost: seconds of work that the next start makes again.
      seconds: from the first signal to the exit.
      faults: what is wrong with it.
    """

    moment: Moment
    action: str
    late: bool = False
    stage: str = ""
    step: int = -1
    code: int | None = None
    lost: float = 0.0
    seconds: float = 0.0
    faults: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        when = f"{self.moment}{' (late)' if self.late else ''}"
        where = self.stage if self.step < 0 else f"{self.stage} at step {self.step}"
        told = f"{when:34} {self.action:9} in {where:24} code {self.code}"
        told += f", {self.seconds:.1f} s to end, {self.lost:.1f} s lost"
        return "".join([told, *(f"\n  FAULT: {fault}" for fault in self.faults)])


def finish(job: Job, workdir: Path) -> list[str]:
    """Runs to the end; gives what is wrong with that."""
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
    done = Kill(moment, action)
    cold = Path(f"{workdir}.cold")
    shutil.rmtree(cold, ignore_errors=True)
    run = WatchedRun(job, workdir, programs=cold if moment.cold else None)
    try:
        there = run.until(lambda: moment.reached(run), lambda: run.whole(moment.stage))
        if there is not None:
            done.late = there == 1
            if not done.late and moment.after:
                time.sleep(draw.uniform(0, moment.after))
            _end(run, done, draw)
    finally:
        run.close()
    shutil.rmtree(cold, ignore_errors=True)
    return done, run


def _end(run: WatchedRun, done: Kill, draw: random.Random) -> None:
    """Sends the signals, waits, and looks at how it ended."""
    names = done.action.split("+")
    caught = names[0] == "KILL" or run.catches(NUMBERS[names[0]])
    done.stage = run.stage()
    done.step = run.step(done.stage)
    complete = run.renewed("report.html")
    sent = time.time()
    for index, name in enumerate(names):
        if index:
            time.sleep(draw.uniform(0, 1.0))
        if run.process.poll() is None:
            run.process.send_signal(NUMBERS[name])
    done.code = run.end(PATIENCE_SECONDS)
    done.seconds = time.time() - sent
    done.lost = max(0.0, sent - run.safe_since())
    if done.code is None:
        done.faults.append(f"still there {PATIENCE_SECONDS:.0f} s later")
        return
    allowed = {
        "KILL": {-signal.SIGKILL},
        "TERM": {preemption.EXIT_CODE},
        "INT": {preemption.INTERRUPTED_CODE},
    }
    codes = set().union(*(allowed[name] for name in names))
    if not caught:  # Python has not come to our code
        codes |= {-NUMBERS[name] for name in names}
    if complete or done.code == 0 and run.renewed("report.html"):
        codes.add(0)
    if done.code not in codes:
        done.faults.append(f"exit code {done.code}, not one of {sorted(codes)}")
    if "KILL" not in names and done.stage in TRAINING and done.step >= 0:
        done.faults += _not_saved(run, done)
    done.faults += [line for line in _wrong_lines(run) if caught]
    if left := run.group():
        time.sleep(5)  # a helper process notices that its parent is gone
        if left := run.group():
            done.faults.append(f"{len(left)} processes live on")


def _not_saved(run: WatchedRun, done: Kill) -> list[str]:
    """Asked to stop in training, a run saves the step that it says."""
    told = [re.search(r"; step (\d+) is saved", line) for line in run.lines]
    saved = [int(found[1]) for found in told if found]
    if len(done.action.split("+")) > 1 or run.whole(done.stage):
        return []
    if not saved:
        return [f"step {done.step} was not saved: {run.lines[-1:]}"]
    steps = run.steps(done.stage)
    if saved[0] < done.step or steps[-1:] != saved:
        return [f"it says that step {saved[0]} is saved; there are {steps}"]
    return []


def _wrong_lines(run: WatchedRun) -> list[str]:
    return [line for line in run.lines if any(word in line for word in FAULTS)]


def plan(whole: Path, kills: int, draw: random.Random) -> Iterator[tuple[Moment, str]]:
    """Moments in the order of the road, in every stage; chosen ones, then random."""
    seconds = {s: _summary(whole, s)["seconds"] for s in STAGES}
    last = {stage: _summary(whole, stage)["steps"] for stage in TRAINING}

    def some(stage: str) -> int:
        return draw.randint(1, max(1, last[stage] // 8))

    chosen = [
        (moments.start_up(draw.uniform(0.1, 2)), "KILL"),
        (moments.inputs_are_read(), "TERM"),
        (moments.compiling("pretrain"), "TERM"),
        (moments.step("pretrain", some("pretrain")), "TERM"),
        (moments.saving("pretrain"), "KILL"),
        (moments.restoring("pretrain"), "TERM"),
        (moments.step("pretrain", some("pretrain")), "TERM+KILL"),
        (moments.saving("pretrain"), "TERM"),
        (moments.ending("pretrain", last["pretrain"]), "KILL"),
        (moments.handing_over("pretrain"), "TERM"),
        (moments.under_way("embed", seconds["embed"] / 2), "TERM"),
        (moments.arrays("embed"), "KILL"),
        (moments.handing_over("embed"), "KILL"),
        (moments.under_way("anchors", seconds["anchors"] / 2), "KILL"),
        (moments.handing_over("anchors"), "TERM"),
        *(
            [(moments.arrays("finetune", "views"), "KILL")]
            if (whole / "finetune" / "views").exists()
            else []
        ),
        (moments.saving("finetune"), "KILL"),
        (moments.step("finetune", some("finetune")), "INT"),
        (moments.saved("finetune"), "KILL"),
        (moments.handing_over("finetune"), "KILL"),
        (moments.under_way("evaluate", seconds["evaluate"] / 2), "TERM"),
        (moments.arrays("evaluate"), "KILL"),
        (moments.ending("evaluate"), "TERM"),
        (moments.written("report.md", after=1.0), "TERM"),
        (moments.page(), "KILL"),
    ]
    more = [
        (moments.restoring("finetune"), "KILL"),
        (moments.step("pretrain", some("pretrain")), "INT+INT"),
        (moments.under_way("anchors", seconds["anchors"]), "INT"),
        (moments.written("results.json"), "KILL"),
        (moments.inputs_are_read(), "INT"),
    ]
    while len(chosen) + len(more) < kills:
        stage = draw.choice((*TRAINING, *TRAINING, "embed", "evaluate", "start-up"))
        if stage in TRAINING:
            moment = draw.choice(
                [moments.step(stage, some(stage)), moments.saving(stage)]
            )
        elif stage == "start-up":
            moment = moments.start_up(draw.uniform(0, 10))
        else:
            moment = moments.under_way(stage, seconds[stage])
        more.append((moment, draw.choice(["KILL", "KILL", "TERM", "TERM", "INT"])))
    while len(chosen) > max(kills, len(STAGES) + 2):  # each has one
        stages = collections.Counter(moment.stage for moment, _ in chosen)
        chosen.remove(draw.choice([one for one in chosen if stages[one[0].stage] > 1]))
    road, ends = (*STAGES, "report"), ("before artifact", "artifact")

    def place(one: tuple[Moment, str]) -> tuple[float, int]:
        moment, _ = one
        if moment.stage not in road:
            return draw.uniform(-1, len(road)), 0
        end = ends.index(moment.name) + 1 if moment.name in ends else 0
        return road.index(moment.stage), end

    added = more[: max(0, kills - len(chosen))]
    yield from sorted([*chosen, *added], key=place)
    while True:  # some were late, and took the place of those after them
        moment = draw.choice([moments.written("results.json", 1), moments.page()])
        yield moment, draw.choice(["KILL", "TERM"])


def _summary(workdir: Path, stage: str) -> dict:
    return json.loads((workdir / stage / "artifact.json").read_text())


def soak(
    job: Job, directory: Path, kills: int, seed: int
) -> tuple[list[Kill], list[str]]:
    """Makes both runs; gives what was done, and every fault."""
    whole, killed = directory / "unbroken", directory / "killed"
    began = time.monotonic()
    faults = finish(job, whole)
    if faults:
        return [], faults
    print(f"unbroken: {time.monotonic() - began:.0f} s", flush=True)
    draw, made, resumed = random.Random(seed), list[Kill](), {}
    for moment, action in plan(whole, kills, draw):
        if len(made) >= kills and moment.stage == "report":
            break
        if (killed / moment.stage / "artifact.json").exists():
            continue
        done, run = kill_at(job, killed, moment, action, draw)
        resumed |= resumed_steps(run)
        if done.code is None and not done.faults:
            print(f"missed, ended before: {moment}", flush=True)
            if run.process.returncode:
                faults.append(f"a start ended with {run.process.returncode}")
                faults += run.lines[-3:]
                return made, faults
            continue
        made.append(done)
        print(f"{len(made):3} {done}", flush=True)
    faults += [f"{one.moment}: {fault}" for one in made for fault in one.faults]
    faults += finish(job, killed)
    faults += same_bits.leftovers(killed)
    faults += same_bits.differences(whole, killed, resumed)
    return made, faults


def resumed_steps(run: WatchedRun) -> dict[tuple[int, str], int]:
    """By process and stage, the step that training went on from."""
    told = [re.match(r"(\w+): resumes at step (\d+)", line) for line in run.lines]
    return {(run.process.pid, found[1]): int(found[2]) for found in told if found}


def _summarize(made: Sequence[Kill]) -> None:
    for what, keys in {
        "by stage": [one.moment.stage for one in made],
        "by signal": [one.action for one in made],
        "by exit code": [one.code for one in made],
    }.items():
        counts = sorted(collections.Counter(keys).items(), key=str)
        print(f"{what}: {', '.join(f'{key} {count}' for key, count in counts)}")
    lost = [one.lost for one in made]
    print(f"lost: {sum(lost):.0f} s in all, {max(lost, default=0):.1f} s at most")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--kills", type=int, default=25, help="at least; each stage has one planned"
    )
    parser.add_argument("--config", type=Path, default="configs/shapes_lt.py")
    parser.add_argument("--workdir", type=Path, help="is emptied; default a temporary")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint_every_steps", type=int, default=25)
    parser.add_argument("flags", nargs="*", help="for both runs, behind --")
    given = parser.parse_args(arguments)
    logging.set_verbosity(logging.ERROR)  # Orbax warns of what nobody reads
    # A shell that puts a job in the background lets it ignore Ctrl-C: not the runs.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    workdir = given.workdir or Path(tempfile.mkdtemp(prefix="soak_"))
    shutil.rmtree(workdir, ignore_errors=True)
    workdir.mkdir(parents=True)
    flags = (
        f"--config.log.checkpoint_every_steps={given.checkpoint_every_steps}",
        "--config.log.progress_seconds=0",
        *given.flags,
    )
    job = Job(given.config, flags, workdir / "programs")
    began = time.monotonic()
    made, faults = soak(job, workdir, given.kills, given.seed)
    print(f"\n{len(made)} kills in {time.monotonic() - began:.0f} s")
    _summarize(made)
    for fault in faults:
        print(f"FAULT: {fault}")
    told = f"{len(faults)} faults; the runs are in {workdir}"
    print(told if faults else "nothing lost, nothing let in")
    if not faults and given.workdir is None:
        shutil.rmtree(workdir)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
