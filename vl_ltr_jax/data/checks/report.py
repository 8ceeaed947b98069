"""The report of a check."""

import collections
from collections.abc import Sequence

from vl_ltr_jax.data.sources.faults import Finding


def has_errors(findings: Sequence[Finding]) -> bool:
    """Returns True if any finding is an error."""
    return any(finding.severity == "error" for finding in findings)


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    """Returns errors before warnings, causes before consequences."""
    return sorted(findings, key=lambda finding: finding.severity != "error")


def to_markdown(title: str, facts: Sequence[str], findings: Sequence[Finding]) -> str:
    """Returns the report of a check.

    Args:
      title: its heading.
      facts: one line each.
      findings: in their final order.
    """
    counts = collections.Counter(finding.severity for finding in findings)
    parts = [f"{n} {name}{'s' if n > 1 else ''}" for name, n in counts.items()]
    verdict = ", ".join(parts) or "Nothing to complain about"
    lines = [f"# {title}", "", *(f"- {fact}" for fact in facts), "", f"{verdict}."]
    for finding in findings:
        lines += [
            *("", f"## {finding.severity}: {finding.code} ({finding.count:,})", ""),
            *(f"{finding.what[:1].upper()}{finding.what[1:]}.", ""),
            *(f"- {offender}" for offender in finding.offenders),
        ]
        if (more := finding.count - len(finding.offenders)) > 0:
            lines.append(f"- and {more:,} more")
        if finding.mend:
            lines += ["", f"To mend it: {finding.mend}."]
    return "\n".join(lines) + "\n"
