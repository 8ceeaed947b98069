"""Records of training steps whose loss or gradient was not finite."""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping

import jax
from etils import epath

from vl_ltr_jax.runtime import errors
from vl_ltr_jax.runtime.errors import UserError
from vl_ltr_jax.storage import atomic, strict_json


class IncidentError(UserError):
    """An incident's file that cannot be read."""


@dataclasses.dataclass(frozen=True)
class Incident:
    """A step that was not finite.

    Attributes:
      step: its number, from 1.
      not_finite: names of the metrics that were NaN or infinite.
      metrics: all of them; `nan`, `inf` and `-inf` as strings.
      images: indices of the global batch in the training list.
      sentences: indices of the global batch in the corpus, or empty.
      checkpoint: step of the last checkpoint before, if any.
      skipped: numbers of the steps that were skipped before.
      devices: from :func:`devices`.
    """

    step: int
    not_finite: list[str]
    metrics: dict[str, float | str]
    images: list[int]
    sentences: list[int]
    checkpoint: int | None
    skipped: list[int] = dataclasses.field(default_factory=list)
    devices: str = ""

    def write(self, path: epath.Path) -> None:
        """Writes the record atomically, and makes its directory."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic.write(path) as file:
            file.write(json.dumps(dataclasses.asdict(self), indent=2).encode())


def read(path: epath.Path) -> Incident:
    """Reads a record.

    Raises:
      IncidentError: the file is damaged.
    """
    try:
        incident = Incident(**strict_json.parse(path.read_bytes()))
        integers = [incident.step, *incident.images, *incident.sentences]
        integers += [*incident.skipped, incident.checkpoint or 0]
        if not all(type(number) is int for number in integers):
            raise ValueError("it is no record of a step")
        list(incident.metrics.items())
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise errors.lack(error) or IncidentError(
            f"{path} cannot be read ({error}). Move it elsewhere, and name its step by "
            "--stage and --step"
        ) from error
    return incident


def set_aside(directory: epath.Path, after: int) -> None:
    """Renames the records of a stage's steps `after` one, which the run repeats."""
    for number in steps(directory):
        if number > after:
            path = path_of(directory, number)
            path.replace(path.with_name(f"{path.stem}_before.json"))


def path_of(directory: epath.Path, step: int) -> epath.Path:
    """Returns the path of a step's record in a stage."""
    return directory / "non_finite" / f"step_{step}.json"


def steps(directory: epath.Path) -> list[int]:
    """Returns the numbers of a stage's recorded steps, ascending."""
    names = [path.stem for path in (directory / "non_finite").glob("step_*.json")]
    numbers = [name.removeprefix("step_") for name in names]
    return sorted(int(number) for number in numbers if number.isdecimal())


def not_finite(values: Mapping[str, float]) -> list[str]:
    """Returns the names of values that are NaN or infinite."""
    return [name for name, value in values.items() if not math.isfinite(value)]


def number(value: float) -> float | str:
    """Returns a JSON value; JSON has no NaN."""
    return value if math.isfinite(value) else str(value)


def devices(used: Iterable[jax.Device]) -> str:
    """Describes devices, as in `8 x NVIDIA H100`."""
    kinds = [device.device_kind for device in used]
    return f"{len(kinds)} x {kinds[0]}"
