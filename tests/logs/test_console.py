"""Lines, colours and progress, on a terminal and in a file."""

import io
import logging
import sys
import types

import absl.logging
import jax
import pytest

from vl_ltr_jax.logs import console, messages


@pytest.fixture(autouse=True)
def loud(monkeypatch):
    """Ends quiet mode."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    yield
    console.be_quiet(False)


class Terminal(io.StringIO):
    """Standard error of a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    stream = Terminal()
    # pytest replaces sys.stderr between a fixture and its test.
    stand_in = types.SimpleNamespace(stderr=stream, modules=sys.modules)
    monkeypatch.setattr(console, "sys", stand_in)
    return stream


def test_a_file_has_no_bar_and_no_colours(capsys):
    for _ in console.progress(range(29), "embed", 29, "images"):
        console.say("starts", stage="embed")
        break
    console.warn("late")
    console.error("no image")
    lines = "embed: starts\nwarning: late\nerror: no image\n"
    assert capsys.readouterr().err == lines


def test_a_terminal_has_a_bar_that_goes(terminal, monkeypatch):
    handler = absl.logging.get_absl_handler().python_handler
    monkeypatch.setattr(handler, "filters", [console.log_record])
    record = logging.LogRecord("absl", logging.WARNING, "", 1, "a text", (), None)
    for _ in console.progress("abcd", "embed", 10, "images", each=3):
        console.say("saved")
        handler.handle(record)
    text = terminal.getvalue()
    assert "embed" in text and "9/10" in text
    assert text.count("\rsaved\n") == text.count("a text\n\r") == 4
    assert text.split("\r")[-1] == ""


@pytest.mark.parametrize(
    ("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)]
)
def test_colours_are_for_terminals_that_want_them(
    terminal, monkeypatch, variables, coloured
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    console.say("starts", stage="embed")
    console.warn("late")
    plain = "embed: starts\nwarning: late\n"
    colours = "\x1b[1membed\x1b[0m: starts\n\x1b[33mwarning: late\x1b[0m\n"
    assert terminal.getvalue() == (colours if coloured else plain)


def test_quiet_mode_leaves_warnings_errors_and_the_brief_result(capsys):
    console.result("a long report", "report.md")
    console.be_quiet()
    console.say("starts", stage="embed")
    console.result("a long report", "report.md")
    console.warn("late")
    console.error("no image")
    captured = capsys.readouterr()
    assert captured.out == "a long report\nreport.md\n"
    assert captured.err == "warning: late\nerror: no image\n"


def test_names_in_messages_move_no_cursor(capsys):
    console.warn("a\x1b[2J\r\udce9\n  é")
    assert capsys.readouterr().err == "warning: a\\x1b[2J\\r\\udce9\n  é\n"


def test_other_processes_print_errors_alone(monkeypatch, terminal, capsys):
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    console.say("starts")
    console.warn("late")
    console.result("report", "report.md")
    list(console.progress(range(3), "embed", 3, "images"))
    assert terminal.getvalue() == capsys.readouterr().out == ""
    console.error("no image")
    assert "no image" in terminal.getvalue()


def test_numbers_are_short():
    assert messages.counted(2048, "class", "classes") == "2,048 classes"
    assert messages.format_duration(3966) == "1h 06m"
    assert messages.format_rate(0.01234) == "0.0123"
