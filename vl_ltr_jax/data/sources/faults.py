"""Faults of a data set: a run stops at the first one, a check lists all."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeVar

from vl_ltr_jax.runtime.errors import UserError

Severity = Literal["error", "warning"]
MAX_OFFENDERS = 10  # named of each finding
_Item = TypeVar("_Item")


class ListError(UserError):
    """A list of images that is missing, malformed or does not fit the files."""


@dataclasses.dataclass(frozen=True)
class Offender:
    """One place of a fault.

    Attributes:
      where: file, and its line or row.
      label: of the class, if it is known.
      class_name: None if it is not known.
      note: fault at this place.
    """

    where: str
    label: int | None = None
    class_name: str | None = None
    note: str = ""

    def __str__(self) -> str:
        name = "" if self.class_name is None else f" {self.class_name!r}"
        known = "" if self.label is None else f" [class {self.label}{name}]"
        return f"{self.where}{known}" + (f": {self.note}" if self.note else "")


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
      code: name such as 'image-missing', the same in all versions.
      severity: 'error' spoils or stops a run; 'warning' deserves a look.
      what: description without the number.
      mend: remedy; empty if the offenders name it.
    """

    code: str
    severity: Severity
    what: str
    mend: str


@dataclasses.dataclass(frozen=True)
class Finding(Kind):
    """A fault of a data set.

    Attributes:
      count: number of images, rows, classes or files.
      offenders: the worst, at most `MAX_OFFENDERS`.
    """

    count: int
    offenders: tuple[Offender, ...]

    def message(self) -> str:
        """Returns the first place, the fault and the remedy in one line."""
        first = self.offenders[0]
        note = f"{first.note}, " if first.note else ""
        total = f" ({self.count:,} in all)" if self.count > 1 else ""
        mend = f"{self.mend[:1].upper()}{self.mend[1:]}."
        return f"{first.where}: {note}one of {self.what}{total}. {mend}"


class Classes:
    """Class names for offenders."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        """Takes C names in label order, or an empty sequence if they are unknown."""
        self.names = tuple(names)

    def offender(self, where: str, label: int, note: str = "") -> Offender:
        """Returns an offender of a class."""
        known = 0 <= label < len(self.names)
        return Offender(where, label, self.names[label] if known else None, note)


def gather(
    kind: Kind, items: Sequence[_Item], offender: Callable[[_Item], Offender]
) -> list[Finding]:
    """Returns one finding of all items, or an empty list without items.

    Args:
      kind: their fault.
      items: the worst first; only the first become offenders.
      offender: from an item to its place.
    """
    if not items:
        return []
    worst = tuple(offender(item) for item in items[:MAX_OFFENDERS])
    return [Finding(**vars(kind), count=len(items), offenders=worst)]


class Faults:
    """Receiver of the faults of a data set.

    Attributes:
      collect: True lists all faults, False raises the first.
      findings: faults so far.
    """

    def __init__(self, collect: bool = False) -> None:
        self.collect = collect
        self.findings: list[Finding] = []

    def add(
        self, kind: Kind, items: Sequence[_Item], offender: Callable[[_Item], Offender]
    ) -> None:
        """Takes items with a fault, see :func:`gather`.

        Raises:
          ListError: items are present, and faults are not collected.
        """
        for finding in gather(kind, items, offender):
            if not self.collect:
                raise ListError(finding.message())
            self.findings.append(finding)

    @contextlib.contextmanager
    def part(self, code: str, what: str) -> Iterator[None]:
        """Turns an error of the block into a finding, if faults are collected."""
        try:
            yield
        except (ValueError, OSError) as error:
            if not self.collect:
                raise
            self.add(Kind(code, "error", what, ""), [str(error)], Offender)
