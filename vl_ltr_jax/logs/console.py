"""Lines on standard error, progress of long steps, and results on standard output.

Process 0 speaks. Quiet mode leaves warnings, errors and results. tqdm draws progress,
on a terminal only.
"""

import logging
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Literal, TypeVar

from absl.logging import PythonFormatter
from tqdm import tqdm

from vl_ltr_jax.logs.messages import printable, without_passwords

_STYLES = {"bold": 1, "red": 31, "yellow": 33}

Item = TypeVar("Item")
_quiet = False


def be_quiet(quiet: bool = True) -> None:
    """Leaves warnings, errors and results; for a command's entry point to call."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    """Returns True in quiet mode."""
    return _quiet


def is_first_process() -> bool:
    """Returns True if this process is alone, or the first of many."""
    # A command without JAX is alone, and need not import it to know.
    jax: Any = sys.modules.get("jax")
    alone = jax is None or not jax.distributed.is_initialized()
    return alone or jax.process_index() == 0


def is_terminal() -> bool:
    """Returns True if a line on standard error can be rewritten in place."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def styled(text: str, style: Literal["bold", "red", "yellow"]) -> str:
    """Returns the text with a terminal's codes around it, on a terminal.

    NO_COLOR is respected (https://no-color.org).
    """
    if not is_terminal() or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


def say(text: str, *, stage: str = "") -> None:
    """Prints one line, in process 0 only; nothing in quiet mode.

    Args:
      text: the line.
      stage: begins it, before a colon.
    """
    text = printable(without_passwords(text), "\n")
    if is_first_process() and not _quiet:
        _write(f"{styled(stage, 'bold')}: {text}" if stage else text)


def warn(text: str) -> None:
    """Prints `warning: ...`, in process 0 only; in quiet mode too."""
    if is_first_process():
        text = printable(f"warning: {without_passwords(text)}", "\n")
        _write(styled(text, "yellow"))


def error(text: str) -> None:
    """Prints `error: ...` in any process."""
    text = printable(f"error: {without_passwords(text)}", "\n")
    head, newline, body = text.partition("\n")
    _write(styled(head, "red") + newline + body)


def log_record(record: logging.LogRecord) -> bool:
    """Writes a log record above progress bars; False keeps it from its handler."""
    _write(PythonFormatter().format(record))
    return False


def result(text: str, brief: str) -> None:
    """Prints the result of a command to standard output, in process 0 only.

    Args:
      text: complete result.
      brief: line to print instead in quiet mode.
    """
    if is_first_process():
        print(printable(brief if _quiet else text, "\n\t"), flush=True)


def progress_bar(
    label: str, total: int | None, unit: str, *, done: int = 0, hidden: bool = False
) -> tqdm:
    """Returns a bar of tqdm's that goes when the step ends.

    Args:
      label: name of the stage or step.
      total: number of units; None if it is unknown.
      unit: name of the units, in the plural.
      done: number of units done before.
      hidden: draws nothing.
    """
    return tqdm(
        desc=label,
        total=total,
        unit=f" {unit}",
        initial=done,
        leave=False,
        file=sys.stderr,
        dynamic_ncols=True,
        disable=hidden or _quiet or not is_first_process() or not is_terminal(),
    )


def progress(
    items: Iterable[Item], label: str, total: int, unit: str, *, each: int = 1
) -> Iterator[Item]:
    """Yields items, and shows progress.

    Args:
      items: in any number.
      label: name of the step.
      total: number of units.
      unit: name of the units, in the plural.
      each: units in an item; the last may have fewer.
    """
    with progress_bar(label, total, unit) as bar:
        for item in items:
            yield item
            bar.update(min(each, total - bar.n))


def _write(text: str) -> None:
    tqdm.write(text, file=sys.stderr)  # bars move out of the way
    sys.stderr.flush()
