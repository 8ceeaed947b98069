"""SIGTERM and Ctrl-C: noted in training, elsewhere the end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vl_ltr_jax.runtime import preemption
from vl_ltr_jax.runtime.preemption import Preempted


@pytest.fixture(autouse=True)
def handlers():
    """Those of the tests come back."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


def test_sigterm_ends_the_process_with_a_code_of_its_own():
    """Breaks if a launcher cannot tell this end from a failure (1, 2) or a kill."""
    told = []
    preemption.end_on_sigterm(told.append)
    with pytest.raises(Preempted) as caught:
        os.kill(os.getpid(), signal.SIGTERM)
    assert (caught.value.code, caught.value.step) == (75, None)
    assert told == ["stopped by SIGTERM: the same command goes on where it was"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # a second one kills


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_in_training_is_noted(handlers, number):
    preemption.end_on_sigterm()
    outside = signal.getsignal(signal.SIGTERM)
    with preemption.deferred() as asked:
        assert asked.by is None and not asked.wait(0)
        os.kill(os.getpid(), number)
        assert asked.by == number and asked.wait(60)
    assert signal.getsignal(signal.SIGTERM) is outside
    assert signal.getsignal(signal.SIGINT) is handlers[signal.SIGINT]


def test_a_second_ctrl_c_does_not_wait():
    with preemption.deferred() as asked:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert asked.by == signal.SIGINT


def test_ctrl_c_that_a_shell_has_switched_off_stays_off():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with preemption.deferred() as asked:
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert asked.by is None


def test_ctrl_c_in_one_of_many_processes_is_told_to_all(monkeypatch):
    """One process cannot save alone: JAX, which watches for SIGTERM, tells the rest."""
    monkeypatch.setattr(preemption.jax.distributed, "is_initialized", lambda: True)
    seen = []
    signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    with preemption.deferred() as asked:
        os.kill(os.getpid(), signal.SIGINT)
    assert seen == [signal.SIGTERM]
    assert asked.by is None


ASKED_IN_A_CALLBACK = """
import gc, os, time
from vl_ltr_jax.runtime import preemption

def callback(phase, info):
    gc.callbacks.clear()
    os.kill(os.getpid(), {number})
    sum(range(1000))  # the handler runs

preemption.end_on_sigterm(print)
gc.callbacks.append(callback)
gc.collect()
time.sleep(60)
"""


@pytest.mark.parametrize(
    "number, code",
    [
        (signal.SIGTERM, preemption.EXIT_CODE),
        (signal.SIGINT, -signal.SIGINT),  # as Python ends; main has its own code
    ],
)
def test_a_signal_is_not_lost_in_garbage_collection(number, code):
    """Breaks if what the handler raises stays where Python ignores it."""
    ended = subprocess.run(
        [sys.executable, "-c", ASKED_IN_A_CALLBACK.format(number=int(number))],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == code, ended.stderr
    assert "ignored" not in ended.stderr
