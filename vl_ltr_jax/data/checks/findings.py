"""What a check of a data set finds: faults, how grave, where, and how to mend them."""

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

Severity = Literal["error", "warning"]
MOST_OFFENDERS = 10  # of a finding that are named
_Item = TypeVar("_Item")


@dataclasses.dataclass(frozen=True)
class Offender:
    """One place of a fault.

    Attributes:
      where: the file, and the line or row of it.
      label: of the class, where there is one.
      class_name: its name, where it is known.
      note: what is wrong there.
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
      code: its name, such as 'image-missing'; stays the same between versions.
      severity: 'error' spoils or stops a run; 'warning' is to be looked at.
      what: what is wrong, without the number.
      mend: what to do; empty where the offenders say so themselves.
    """

    code: str
    severity: Severity
    what: str
    mend: str


@dataclasses.dataclass(frozen=True)
class Finding(Kind):
    """A fault of a data set.

    Attributes:
      count: how many images, rows, classes or files have it.
      offenders: the worst of them, at most `MOST_OFFENDERS`.
    """

    count: int
    offenders: tuple[Offender, ...]


class Classes:
    """Names of classes for offenders; those that are not known are left out."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        """Takes C names in label order, or none."""
        self.names = tuple(names)

    def offender(self, where: str, label: int, note: str = "") -> Offender:
        """An offender of a class."""
        known = 0 <= label < len(self.names)
        return Offender(where, label, self.names[label] if known else None, note)


def gather(
    kind: Kind, found: Sequence[_Item], offender: Callable[[_Item], Offender]
) -> list[Finding]:
    """A finding of all that was found; none if there is nothing.

    Args:
      kind: what is wrong with them.
      found: all of them, the worst first; only the first become offenders.
      offender: makes one.
    """
    if not found:
        return []
    worst = tuple(offender(item) for item in found[:MOST_OFFENDERS])
    return [Finding(**vars(kind), count=len(found), offenders=worst)]


def has_errors(findings: Sequence[Finding]) -> bool:
    """Whether any is an error."""
    return any(finding.severity == "error" for finding in findings)


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    """Errors before warnings, each in the order found: causes before consequences."""
    return sorted(findings, key=lambda finding: finding.severity != "error")


def to_markdown(title: str, facts: Sequence[str], findings: Sequence[Finding]) -> str:
    """The report of a check.

    Args:
      title: its heading.
      facts: what was looked at, a line each.
      findings: in the order they shall have.
    """
    count = collections.Counter(finding.severity for finding in findings)
    found = [f"{n} {name}{'s' if n > 1 else ''}" for name, n in count.items()]
    verdict = ", ".join(found) or "Nothing to complain about"
    lines = [f"# {title}", "", *(f"- {fact}" for fact in facts), "", f"{verdict}."]
    for finding in findings:
        lines += [
            "",
            f"## {finding.severity}: {finding.code} ({finding.count:,})",
            "",
            f"{finding.what[:1].upper()}{finding.what[1:]}.",
            "",
            *(f"- {offender}" for offender in finding.offenders),
        ]
        if (others := finding.count - len(finding.offenders)) > 0:
            lines.append(f"- and {others:,} more")
        if finding.mend:
            lines += ["", f"To mend it: {finding.mend}."]
    return "\n".join(lines) + "\n"
