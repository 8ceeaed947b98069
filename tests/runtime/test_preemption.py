"""SIGTERM and Ctrl-C: noted in training, elsewhere the end."""

import os
import signal

import pytest

from vl_ltr_jax.runtime import preemption
from vl_ltr_jax.runtime.preemption import Preempted


@pytest.fixture(autouse=True)
def handlers():
    """Restores the handlers of the tests."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


def test_sigterm_ends_the_process_with_a_code_of_its_own():
    """Breaks if a launcher cannot tell this end from a failure (1, 2) or a kill."""
    preemption.end_on_sigterm()
    with pytest.raises(Preempted) as caught:
        os.kill(os.getpid(), signal.SIGTERM)
    assert (caught.value.code, caught.value.step) == (75, None)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # a second one kills


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_in_training_is_noted(handlers, number):
    preemption.end_on_sigterm()
    outside = signal.getsignal(signal.SIGTERM)
    with preemption.deferred() as request:
        assert request.by is None and not request.wait(0)
        os.kill(os.getpid(), number)
        assert request.by == number and request.wait(60)
    assert signal.getsignal(signal.SIGTERM) is outside
    assert signal.getsignal(signal.SIGINT) is handlers[signal.SIGINT]


def test_a_second_ctrl_c_does_not_wait():
    with preemption.deferred():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_that_a_shell_has_switched_off_stays_off():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with preemption.deferred():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_ctrl_c_in_one_of_many_processes_stops_all(monkeypatch):
    """One process cannot save alone: JAX, which watches for SIGTERM, tells the rest."""
    monkeypatch.setattr(preemption.jax.distributed, "is_initialized", lambda: True)
    signals = []
    signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))
    with preemption.deferred() as request:
        os.kill(os.getpid(), signal.SIGINT)
    assert signals == [signal.SIGTERM]
    assert request.by is None
