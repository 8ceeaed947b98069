"""Moments of a run at which a kill might do harm, found by looking from outside."""

import signal
import time
from collections.abc import Callable
from typing import NamedTuple

from processes.watched_run import TRAINING, WatchedRun


class Moment(NamedTuple):
    """A place on the road of a run.

    Attributes:
      name: what is happening.
      stage: in which stage; `start-up` and `report` are such, too.
      reached: looks whether a run is there.
      cold: nothing is compiled yet.
      after: at most so many seconds later.
    """

    name: str
    stage: str
    reached: Callable[[WatchedRun], bool]
    cold: bool = False
    after: float = 0.0

    def __str__(self) -> str:
        return f"{self.stage}: {self.name}"


def start_up(seconds: float) -> Moment:
    """Before anything else: the interpreter, imports."""
    return Moment("imports", "start-up", lambda run: time.time() - run.began >= seconds)


def inputs_are_read(after: float = 0.5) -> Moment:
    """After the imports, before the first stage."""
    return Moment(
        "inputs", "start-up", lambda run: run.catches(signal.SIGTERM), after=after
    )


def restoring(stage: str, after: float = 0.3) -> Moment:
    """A training stage goes on: what is there is read."""
    return Moment(
        "restoring", stage, lambda run: run.said(f"{stage}: starts"), after=after
    )


def compiling(stage: str, after: float = 1.0) -> Moment:
    """Before the first step."""
    return Moment(
        "compiling",
        stage,
        lambda run: run.said(f"{stage}: ") and run.said(" parameters in "),
        cold=True,
        after=after,
    )


def step(stage: str, ahead: int) -> Moment:
    """Some steps from where the run goes on."""
    first: list[int] = []

    def reached(run: WatchedRun) -> bool:
        now = run.step(stage)
        if now >= 0 and not first:
            first.append(now)
        return bool(first) and now >= first[0] + ahead

    return Moment(f"{ahead} steps on", stage, reached)


def saving(stage: str, after: float = 0.02) -> Moment:
    """A checkpoint is being written."""
    return Moment("checkpoint", stage, lambda run: run.saves(stage), after=after)


def saved(stage: str) -> Moment:
    """A checkpoint has just got its name, and an old one may go."""
    before: list[list[int]] = []

    def reached(run: WatchedRun) -> bool:
        steps = run.steps(stage)
        if not before:
            before.append(steps)
        return bool(set(steps) - set(before[0]))

    return Moment("checkpoint is whole", stage, reached)


def ending(stage: str, last: int = 0) -> Moment:
    """All of a stage is there but the file that says so."""

    def reached(run: WatchedRun) -> bool:
        if stage in TRAINING:
            return run.said(f"{stage}: starts") and last in run.steps(stage)
        return run.renewed(f"{stage}/{_LAST[stage]}")

    return Moment("before artifact", stage, reached)


_LAST = {
    "embed": "image_labels.npy",
    "anchors": "sentences.json",
    "evaluate": "test_margins.npy",
}


def handing_over(stage: str) -> Moment:
    """The next stage is about to begin."""
    return Moment("artifact", stage, lambda run: run.whole(stage))


def under_way(stage: str, after: float) -> Moment:
    """Somewhere in a stage that is not training."""
    return Moment(
        "under way",
        stage,
        lambda run: run.renewed(f"{stage}/settings.json"),
        after=after,
    )


def arrays(stage: str, directory: str = "") -> Moment:
    """The first of its arrays is written."""
    place = f"{stage}/{directory}".rstrip("/")

    def reached(run: WatchedRun) -> bool:
        names = [name for name in run.names(place) if ".npy" in name]
        return any(run.renewed(f"{place}/{name}") for name in names)

    return Moment(directory or "arrays", stage, reached)


def written(name: str, after: float = 0.0) -> Moment:
    """A file of the report was just written."""
    return Moment(name, "report", lambda run: run.renewed(name), after=after)


def page() -> Moment:
    """The page is being written, or was this very moment."""
    names = ("report.html.partial", "report.html")
    return Moment(names[0], "report", lambda run: any(map(run.renewed, names)))
