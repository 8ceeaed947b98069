"""What is kept of a training step whose loss or gradient was not finite."""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
from etils import epath

from vl_ltr_jax.runtime import errors
from vl_ltr_jax.runtime.errors import UserError
from vl_ltr_jax.storage import atomic, strict_json


class IncidentError(UserError):
    """A file of an incident that cannot be read."""


@dataclasses.dataclass(frozen=True)
class Incident:
    """Such a step.

    Attributes:
      step: its number, from 1.
      not_finite: names of those metrics that were not.
      metrics: all of them; those that JSON has no number for as `nan`, `inf`, `-inf`.
      images: of the global batch, by their places in the training list.
      sentences: the same, by their places in the corpus; none where none were drawn.
      checkpoint: the step of the last one before, if there was one.
      skipped: steps before that were skipped.
      devices: that it ran on, see :func:`devices`.
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
        """Writes it whole, and the directory around it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic.write(path) as file:
            file.write(json.dumps(dataclasses.asdict(self), indent=2).encode())


def read(path: epath.Path) -> Incident:
    """Reads back what :meth:`Incident.write` wrote.

    Raises:
      IncidentError: if the file is damaged.
    """
    try:
        content: Any = strict_json.parse(path.read_bytes())
        if not isinstance(content, dict) or not _fits(content):
            raise ValueError("it is not what a run writes")
        return Incident(**content)
    except (OSError, ValueError, TypeError) as error:
        raise errors.lack(error) or IncidentError(
            f"{path} cannot be read ({error}). Move it elsewhere, and name its step by "
            "--stage and --step"
        ) from error


def _fits(content: dict[str, Any]) -> bool:
    if content.keys() != {field.name for field in dataclasses.fields(Incident)}:
        return False
    numbers = [content["step"]]
    for name in ("images", "sentences", "skipped"):
        numbers += content[name]
    if content["checkpoint"] is not None:
        numbers.append(content["checkpoint"])
    texts = [content["devices"], *content["not_finite"], *content["metrics"]]
    return all(type(one) is int for one in numbers) and all(
        isinstance(one, str) for one in texts
    )


def set_aside(directory: epath.Path, after: int) -> None:
    """Renames those of steps that a run makes again: they count if they come back.

    Args:
      directory: of the stage.
      after: the number of steps that are done.
    """
    for number in steps(directory):
        if number > after:
            path = path_of(directory, number)
            path.replace(path.with_name(f"{path.stem}_before.json"))


def path_of(directory: epath.Path, step: int) -> epath.Path:
    """Where a stage keeps what one of its steps was given."""
    return directory / "non_finite" / f"step_{step}.json"


def steps(directory: epath.Path) -> list[int]:
    """Those that a stage has kept, ascending."""
    names = [path.stem for path in (directory / "non_finite").glob("step_*.json")]
    numbers = [name.removeprefix("step_") for name in names]
    return sorted(int(number) for number in numbers if number.isdecimal())


def not_finite(values: Mapping[str, float]) -> list[str]:
    """The names of those that are not."""
    return [name for name, value in values.items() if not math.isfinite(value)]


def number(value: float) -> float | str:
    """As JSON, which has no word for NaN."""
    return value if math.isfinite(value) else str(value)


def devices(used: Iterable[jax.Device]) -> str:
    """What a program runs on, as in `8 x NVIDIA H100`."""
    kinds = [device.device_kind for device in used]
    return f"{len(kinds)} x {kinds[0]}"
