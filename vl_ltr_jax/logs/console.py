"""What a person sees of a run while it lasts: lines, and progress with the time left.

All of it goes to standard error; standard output is for results. On a terminal a long
step has one line, rewritten in place (tqdm does the rewriting). In a log file it has a
plain line every half minute, with neither carriage returns nor colours. Process 0
speaks; quiet mode leaves warnings and errors.
"""

import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Literal, TypeVar

from tqdm import tqdm
from tqdm.utils import disp_len, disp_trim

from vl_ltr_jax.logs.messages import (
    format_duration,
    format_rate,
    printable,
    without_passwords,
)

IN_PLACE_SECONDS = 0.2  # between two looks of a line on a terminal
PLAIN_SECONDS = 30.0  # between two lines in a file: shorter steps have none
_STYLES = {"bold": 1, "red": 31, "yellow": 33}

Item = TypeVar("Item")
_quiet = False


def be_quiet(quiet: bool = True) -> None:
    """Leaves warnings, errors and results; for a command's entry point to call."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    """Whether only warnings, errors and results are wanted."""
    return _quiet


def is_first_process() -> bool:
    """Whether this process is alone, or the first of many."""
    # A command without JAX is alone, and need not import it to know.
    jax: Any = sys.modules.get("jax")
    alone = jax is None or not jax.distributed.is_initialized()
    return alone or jax.process_index() == 0


def is_terminal() -> bool:
    """Whether a line on standard error can be rewritten in place."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def styled(text: str, style: Literal["bold", "red", "yellow"]) -> str:
    """Text with a terminal's codes around it, where they are welcome.

    That is on a terminal, unless NO_COLOR is set (https://no-color.org).
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
    """Prints `error: ...`, in any process, below what lines of progress came to."""
    end_lines()
    text = printable(f"error: {without_passwords(text)}", "\n")
    head, _, rest = text.partition("\n")
    _write("\n".join([styled(head, "red"), rest]) if rest else styled(head, "red"))


def result(text: str, brief: str) -> None:
    """Prints what a command was asked for to standard output, in process 0 only.

    Args:
      text: all of it.
      brief: the one line that is left of it in quiet mode.
    """
    if is_first_process():
        print(printable(brief if _quiet else text, "\n\t"), flush=True)


def make_room(record: logging.LogRecord) -> bool:
    """A filter for the handlers of logging: what is logged has a line of its own."""
    for line in Progress.shown:
        line.clear()
    return True


def end_lines() -> None:
    """Leaves lines that are still being rewritten as they are, for good."""
    for line in list(Progress.shown):
        line.leave = True
        line.close()


class Progress(tqdm):
    """How far a long step is, how fast it goes, and how long it will take.

    A context manager: on a terminal the line goes when the step ends, and stays if it
    fails. Attributes are those of tqdm.
    """

    leave: bool
    n: float
    monitor_interval = 0  # no thread of tqdm's
    shown: list["Progress"] = []

    def __init__(
        self,
        what: str,
        total: int | None,
        unit: str,
        *,
        done: int = 0,
        plain_seconds: float = PLAIN_SECONDS,
        hidden: bool = False,
    ) -> None:
        """Shows the line, on a terminal.

        Args:
          what: is done, such as the name of the stage.
          total: how many units there are; None while nobody knows, and the attribute
            may be set later.
          unit: their name, in the plural.
          done: how many of them were done before.
          plain_seconds: between two lines where no terminal is.
          hidden: shows nothing.
        """
        self._in_place, self._is_cold = is_terminal(), True
        self._plain_seconds, self._printed = plain_seconds, time.monotonic()
        self._rate: float | None = None
        self._details: Sequence[str] = ()
        super().__init__(
            desc=what,
            total=total,
            unit=unit,
            initial=done,
            leave=False,
            file=sys.stderr,
            nrows=20,  # some terminals say that they have none, and had no line then
            disable=hidden or _quiet or not is_first_process(),
            miniters=0,  # each update looks at the clock
            mininterval=IN_PLACE_SECONDS if self._in_place else 0,
        )
        Progress.shown.append(self)

    def at(
        self, done: int, *, rate: float | None = None, details: Sequence[str] = ()
    ) -> None:
        """Tells where the step is.

        Args:
          done: units done, those before included.
          rate: units a second, where it is measured elsewhere.
          details: for the end of the line; the last is left out first.
        """
        self._rate, self._details = rate or self._rate, details or self._details
        self.update(done - self.n)

    def update(self, n: float = 1) -> bool | None:
        """Adds units; the first ones, which compile or open files, set no rate."""
        if self.disable or n <= 0 or not self._is_cold:
            return super().update(n)
        self._is_cold = False
        self.n = self.initial = self.last_print_n = self.n + n
        self.unpause()
        self.refresh()
        return True

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Rewrites the line, or writes a plain one when it is time."""
        if self._in_place:
            return super().display(msg, pos)
        if msg is None and time.monotonic() - self._printed >= self._plain_seconds:
            self._printed = time.monotonic()
            print(self, file=self.fp, flush=True)
        return False

    def clear(self, nolock: bool = False) -> None:
        """Makes room for another line; a plain line stands where it is."""
        if self._in_place:
            super().clear(nolock)

    def close(self) -> None:
        """Ends the line."""
        # tqdm calls two lines equal that have the same place on the screen.
        Progress.shown = [line for line in Progress.shown if line is not self]
        self.leave = self.leave and self._in_place
        super().close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.leave = kind is not None
        super().__exit__(kind, error, traceback)

    def __str__(self) -> str:
        told, count = self.format_dict, f"{self.n:,}"
        if self.total is not None:
            share = int(100 * self.n / max(self.total, 1))
            count += f"/{self.total:,} ({share}%)"
        parts = [f"{styled(self.desc, 'bold')} {count}".lstrip()]
        rate = self._rate or told["rate"]
        if not rate and told["elapsed"]:
            rate = (self.n - self.initial) / told["elapsed"]
        if rate and self.total is not None:
            left = max(self.total - self.n, 0) / rate
            parts.append(f"{format_duration(left)} left")
        if rate:
            parts.append(f"{format_rate(rate)} {self.unit}/s")
        parts += map(printable, self._details)
        if not self._in_place:
            return "  ".join(parts)
        # One that is as wide as the terminal would begin another line.
        while (width := disp_len("  ".join(parts))) >= _columns() and len(parts) > 1:
            parts.pop()
        line = "  ".join(parts)
        return line if width < _columns() else disp_trim(line, _columns() - 1)


# Threads of one process speak, and no child of it: tqdm's own lock is for both.
Progress.set_lock(threading.RLock())


def progress(
    items: Iterable[Item], what: str, total: int, unit: str, *, each: int = 1
) -> Iterator[Item]:
    """Passes items on and shows how far their reader is.

    Args:
      items: one after another.
      what: is done with them.
      total: how many units they are.
      unit: its name, in the plural.
      each: units in an item; the last may have fewer.
    """
    with Progress(what, total, unit) as line:
        for item in items:
            yield item
            line.update(min(each, total - line.n))


def _write(text: str) -> None:
    """A line of its own: lines of progress move out of its way."""
    Progress.write(text, file=sys.stderr)
    sys.stderr.flush()


def _columns() -> int:
    """Of the terminal behind standard error."""
    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):  # a stream without a file
        columns = 0
    return columns or shutil.get_terminal_size().columns
