"""Moments of a run at which a kill might do harm, recognised from outside."""

import signal
from collections.abc import Callable
from typing import NamedTuple

from processes.watched_run import WatchedRun


class Moment(NamedTuple):
    """A moment of a run.

    Attributes:
      name: activity of the run.
      stage: in which; `start-up` and `report` count.
      reached: returns True once the run is there.
      after: maximal seconds to wait then.
    """

    name: str
    stage: str
    reached: Callable[[WatchedRun], bool]
    after: float = 0.0


def inputs(after: float = 0.5) -> Moment:
    """Returns the moment after the imports, before the first stage."""
    return Moment(
        "inputs", "start-up", lambda run: run.catches(signal.SIGTERM), after=after
    )


def restoring(stage: str, after: float = 0.3) -> Moment:
    """Returns the start of a training stage that resumes."""
    return Moment(
        "restoring", stage, lambda run: run.printed(f"{stage}: starts"), after=after
    )


def step(stage: str, ahead: int) -> Moment:
    """Returns the moment some steps after the first line of progress."""
    first: list[int] = []

    def reached(run: WatchedRun) -> bool:
        now = run.step(stage)
        if now >= 0 and not first:
            first.append(now)
        return bool(first) and now >= first[0] + ahead

    return Moment(f"{ahead} steps on", stage, reached)


def saving(stage: str, after: float = 0.02) -> Moment:
    """Returns the moment in which a checkpoint is being written."""

    def reached(run: WatchedRun) -> bool:
        return any(
            "orbax-checkpoint-tmp" in name
            and run.renewed(f"{stage}/checkpoints/{name}")
            for name in run.names(stage, "checkpoints")
        )

    return Moment("checkpoint", stage, reached, after=after)


def handing_over(stage: str) -> Moment:
    """Returns the moment before the next stage begins."""
    return Moment("artifact", stage, lambda run: run.finished(stage))


def under_way(stage: str, after: float) -> Moment:
    """Returns a moment in a stage that is not training."""
    return Moment(
        "under way",
        stage,
        lambda run: run.renewed(f"{stage}/settings.json"),
        after=after,
    )


def arrays(stage: str, directory: str = "") -> Moment:
    """Returns the moment after a stage's first array."""
    place = f"{stage}/{directory}".rstrip("/")

    def reached(run: WatchedRun) -> bool:
        names = [name for name in run.names(place) if ".npy" in name]
        return any(run.renewed(f"{place}/{name}") for name in names)

    return Moment(directory or "arrays", stage, reached)


def page() -> Moment:
    """Returns the moment in which the page is written."""

    def reached(run: WatchedRun) -> bool:
        names = [name for name in run.names() if name.startswith("report.html")]
        return any(map(run.renewed, names))

    return Moment("report.html", "report", reached)
