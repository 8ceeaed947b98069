"""Lines, colours and progress, on a terminal and in a file."""

import contextlib
import logging
import os
import pty
import re
import sys
import termios
import threading
import time
import types

import pytest
from tqdm.utils import disp_len

from vl_ltr_jax.logs import console, messages

CODES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@pytest.fixture(autouse=True)
def loud(monkeypatch):
    """No test leaves quiet mode or an open line to others."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(console.Progress, "shown", [])
    yield
    console.be_quiet(False)
    assert console.Progress.shown == []


class Screen:
    """A terminal as standard error; gives what was written to it."""

    def __init__(self, monkeypatch, columns):
        self._keyboard, device = pty.openpty()
        termios.tcsetwinsize(device, (24, columns))
        modes = termios.tcgetattr(device)
        modes[1] &= ~termios.OPOST  # else each newline has a carriage return
        termios.tcsetattr(device, termios.TCSANOW, modes)
        self.file = os.fdopen(device, "w")
        monkeypatch.setattr(sys, "stderr", self.file)
        self._content, self._more = b"", threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        """All the time: a writer that nobody reads stands still."""
        with contextlib.suppress(OSError):  # the other side is closed
            while content := os.read(self._keyboard, 2**16):
                with self._more:
                    self._content += content
                    self._more.notify()

    def text(self):
        """What came since it was last asked for; what is written takes its time."""
        print(end="\0", file=self.file, flush=True)
        with self._more:
            assert self._more.wait_for(lambda: self._content.endswith(b"\0"), 60)
            content, self._content = self._content, b""
        return content.decode().removesuffix("\0")

    def close(self):
        self.file.close()
        self._reader.join()
        os.close(self._keyboard)


@pytest.fixture
def screen(monkeypatch):
    opened = []

    def make(columns=80):
        opened.append(Screen(monkeypatch, columns))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


class Clock:
    """Time that passes when told, for plain lines."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(
            console, "time", types.SimpleNamespace(monotonic=lambda: self.now)
        )


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_a_file_gets_a_plain_line_every_half_minute(clock, capsys):
    with console.Progress("embed", 5000, "sentences") as line:
        for done in range(0, 3200, 32):
            line.at(done, rate=32.0, details=["loss 2.5"])
            clock.now += 1
    said = capsys.readouterr().err
    assert said.splitlines() == [
        f"embed {done:,}/5,000 ({share}%)  {left} left  32 sentences/s  loss 2.5"
        for done, share, left in [
            (960, 19, "2m 06s"),
            (1920, 38, "1m 36s"),
            (2880, 57, "1m 06s"),
        ]
    ]


def test_a_short_step_leaves_a_file_alone(clock, capsys):
    """Breaks if the end of a step is a line: the end of its stage has one."""
    for _ in console.progress(range(29), "embed", 29, "images"):
        clock.now += 1
    assert capsys.readouterr().err == ""


def test_a_message_does_not_make_a_plain_line_come_earlier(clock, capsys):
    with console.Progress("embed", 10, "images") as line:
        line.update(3)
        console.say("hello")
        line.update(3)
    assert capsys.readouterr().err == "hello\n"


def test_a_terminal_has_one_line_that_is_rewritten(screen):
    shown = screen()
    with console.Progress("embed", 4000, "images") as line:
        line.at(1000, rate=2000.0)
        line.refresh()
        during = shown.text()
        console.say("saved")
        message = shown.text()
    assert "\n" not in during
    last = CODES.sub("", during).split("\r")[-1]
    assert last.rstrip() == "embed 1,000/4,000 (25%)  2s left  2,000 images/s"
    # The line goes, the message stands, the line comes back below it.
    blank, again = CODES.sub("", message).split("saved")
    assert blank.strip() == "" and again.startswith("\n\rembed 1,000/4,000")
    assert shown.text().rstrip(" ").endswith("\r"), "the line stays when it is over"


def test_a_terminal_is_written_to_some_times_a_second(screen):
    shown = screen()
    started = time.monotonic()
    for _ in console.progress(range(500), "embed", 500, "images"):
        pass
    seconds = time.monotonic() - started
    rewritten = shown.text().count("embed")
    assert 1 <= rewritten <= 2 + seconds / console.IN_PLACE_SECONDS


@pytest.mark.parametrize(
    "what", ["finetune: view 3 of 4", "\u9e1f\u7c7b" * 20, "\u9e1f\u7c7b" * 6]
)
def test_a_line_is_never_as_wide_as_the_terminal(screen, monkeypatch, what):
    """A wrapped line cannot be rewritten. Breaks if letters are counted, not cells."""
    shown = screen(columns=40)
    if len(what) < 20:
        monkeypatch.setenv("NO_COLOR", "1")  # codes would count as letters
    with console.Progress(what, 10**6, "images") as line:
        line.at(10**5, rate=123.4, details=["loss 1.234"] * 5)
        line.refresh()
        rows = shown.text().split("\r")
    assert 37 <= max(disp_len(row) for row in rows) <= 39


def test_a_step_that_fails_leaves_its_line(screen):
    shown = screen()
    with pytest.raises(ValueError, match="no image"):
        with console.Progress("embed", 100, "images") as line:
            line.update(42)
            raise ValueError("no image")
    left = CODES.sub("", shown.text()).split("\r")[-1]
    assert left.startswith("embed 42/100 (42%)") and left.endswith("\n")


def test_a_step_that_fails_leaves_a_file_alone(capsys):
    with pytest.raises(ValueError, match="no image"):
        with console.Progress("embed", 100, "images") as line:
            line.update(42)
            raise ValueError("no image")
    assert capsys.readouterr().err == ""


def test_an_error_ends_the_lines_above_it(screen):
    """Breaks if a line that nobody closed is drawn again below the message."""
    shown = screen()
    items = console.progress(range(10), "embed", 10, "images")
    next(items)
    console.error("no image\n  here")
    said = shown.text().split("\n")
    assert CODES.sub("", said[0].split("\r")[-1]).startswith("embed 0/10")
    assert said[1:] == ["\x1b[31merror: no image\x1b[0m", "  here", ""]
    items.close()
    assert shown.text() == ""


def test_what_is_logged_has_a_line_of_its_own(screen):
    shown = screen()
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(console.make_room)
    with console.Progress("embed", 100, "images"):
        record = logging.makeLogRecord({"msg": "another image is taken"})
        handler.handle(record)
    rows = shown.text().split("\n")[0].split("\r")
    assert rows[-1] == "another image is taken"


@pytest.mark.parametrize(
    "variables, coloured",
    [
        ({}, True),
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": ""}, True),  # as no-color.org has it
        ({"TERM": "dumb"}, False),
    ],
)
def test_colours_are_for_terminals_that_want_them(
    screen, monkeypatch, variables, coloured
):
    shown = screen()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    console.say("starts", stage="embed")
    console.warn("late")
    said = shown.text()
    assert CODES.sub("", said) == "embed: starts\nwarning: late\n"
    assert (said == "\x1b[1membed\x1b[0m: starts\n\x1b[33mwarning: late\x1b[0m\n") == (
        coloured
    )


def test_a_dumb_terminal_has_plain_lines(screen, monkeypatch, clock):
    shown = screen()
    monkeypatch.setenv("TERM", "dumb")
    with console.Progress("embed", 100, "images") as line:
        clock.now += 31
        line.at(50, rate=1.0)
    assert shown.text() == "embed 50/100 (50%)  50s left  1 images/s\n"


def test_a_file_has_no_colours(capsys):
    console.say("starts", stage="embed")
    console.warn("late")
    console.error("no image")
    assert capsys.readouterr().err == (
        "embed: starts\nwarning: late\nerror: no image\n"
    )


def test_quiet_mode_leaves_warnings_errors_and_where_the_result_is(capsys):
    console.result("a long report", "report.md")
    console.be_quiet()
    assert console.is_quiet()
    console.say("starts", stage="embed")
    console.result("a long report", "report.md")
    with console.Progress("embed", 10, "images", plain_seconds=0) as line:
        line.at(5, rate=1.0)
    console.warn("late")
    console.error("no image")
    said = capsys.readouterr()
    assert said.out == "a long report\nreport.md\n"
    assert said.err == "warning: late\nerror: no image\n"


def test_names_in_messages_move_no_cursor(capsys):
    hostile = "a\x1b[2J\r\udce9\n  é"
    for tell in (console.say, console.warn, console.error):
        tell(hostile)
        assert capsys.readouterr().err.endswith("a\\x1b[2J\\r\\udce9\n  é\n")


def test_one_of_many_processes_says_only_why_it_ends(monkeypatch, capsys):
    import jax

    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    console.say("starts")
    console.warn("late")
    console.result("report", "report.md")
    for _ in console.progress(range(3), "embed", 3, "images"):
        pass
    console.error("no image")
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "error: no image\n")


def test_items_pass_unchanged_and_the_last_may_have_fewer_units(screen):
    shown = screen()
    seen = []
    for item in console.progress("abcd", "embed", 10, "images", each=3):
        seen.append(item)
        (line,) = console.Progress.shown
        line.refresh()
    assert seen == list("abcd")
    counts = re.findall(r"embed\S* (\d+)/10", shown.text())
    assert list(dict.fromkeys(counts)) == ["0", "3", "6", "9"]


def test_what_compiles_first_sets_no_rate(capsys):
    """Breaks if the first step's half second counts."""
    with console.Progress("train", 1000, "steps", plain_seconds=0) as line:
        time.sleep(0.5)
        for _ in range(5):
            line.update()
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("train 5/1,000 (0%)")
    assert float(last.split("  ")[-1].split(" ")[0].replace(",", "")) > 200


def test_one_thing_has_no_s():
    assert messages.counted(1, "picture") == "1 picture"
    assert messages.counted(0, "picture") == "0 pictures"
    assert messages.counted(2048, "class", "classes") == "2,048 classes"


@pytest.mark.parametrize(
    ("seconds", "want"),
    [(0.4, "0s"), (59.6, "1m 00s"), (3966, "1h 06m"), (187_200, "2d 04h")],
)
def test_durations_show_two_units(seconds, want):
    assert messages.format_duration(seconds) == want


@pytest.mark.parametrize(
    ("rate", "want"), [(2048.4, "2,048"), (31.42, "31.4"), (0.01234, "0.0123")]
)
def test_rates_have_three_digits_or_whole_numbers(rate, want):
    assert messages.format_rate(rate) == want


def test_what_nobody_has_counted_has_no_share_and_no_time_left(capsys):
    with console.Progress("predict", None, "pictures", plain_seconds=0) as line:
        line.at(3, rate=5.0)
        line.total = 20
        line.at(4, rate=5.0)
    assert capsys.readouterr().err.splitlines() == [
        "predict 0",
        "predict 3  5 pictures/s",
        "predict 4/20 (20%)  3s left  5 pictures/s",
    ]
