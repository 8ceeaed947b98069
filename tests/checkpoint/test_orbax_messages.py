"""What a failed save or restore leaves is not told of; all else is."""

import asyncio
import functools
import gc
import logging
import sys
import types
import warnings

import pytest

from vl_ltr_jax.checkpoint import orbax_messages
from vl_ltr_jax.checkpoint.orbax_messages import first_line, quieten
from vl_ltr_jax.runtime import preemption


@pytest.fixture
def unraised(monkeypatch):
    """What comes to the hook that was there before ours."""
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda one: told.append(one.exc_value))
    quieten()
    return told


def coroutine_of(file):
    """One that fails when it is dropped, from a file of this name."""
    code = (
        "async def read():\n"
        "    try: await wait()\n"
        "    finally: raise ValueError('dropped')\n"
        "@types.coroutine\n"
        "def wait(): yield\n"
    )
    names = {"types": types}
    exec(compile(code, file, "exec"), names)
    return names["read"]()


@pytest.mark.parametrize("file, kept", [("/x/orbax/a.py", 0), ("/x/data.py", 1)])
def test_coroutines_of_orbax_are_dropped_silently(unraised, file, kept):
    coroutine = coroutine_of(file)
    coroutine.send(None)
    del coroutine
    gc.collect()
    assert len(unraised) == kept


@pytest.mark.parametrize("of, kept", [(None, 0), ("a callback", 1)])
def test_answers_to_a_closed_loop_are_silent(unraised, of, kept):
    loop = asyncio.new_event_loop()
    loop.close()
    with pytest.raises(RuntimeError) as caught:
        loop.call_soon_threadsafe(print)
    error = caught.value  # as TensorStore's thread has it: asyncio's frames alone
    trace = error.__traceback__.tb_next
    told = types.SimpleNamespace(object=of, exc_value=error, exc_traceback=trace)
    sys.unraisablehook(told)
    told.exc_traceback, told.object = error.__traceback__, None  # of our own code
    sys.unraisablehook(told)
    assert len(unraised) == kept + 1


def test_the_hook_is_put_up_once_beside_that_of_preemption(unraised):
    preempting = functools.partial(preemption._raise_again, sys.unraisablehook)
    sys.unraisablehook = preempting
    quieten()
    assert sys.unraisablehook is preempting


def test_asyncio_tells_of_the_tasks_of_others(caplog):
    quieten()
    promised = ValueError('OUT_OF_RANGE: Error reading "params.k24/0.0"')
    for error in (promised, ValueError("of another")):
        loop = asyncio.new_event_loop()
        loop.create_future().set_exception(error)
        gc.collect()
        loop.close()
    logging.getLogger("asyncio").error("Executing <Task> took 3 seconds")
    (left, other) = caplog.records
    assert left.exc_info[1].args == ("of another",)
    assert "took 3 seconds" in other.getMessage()


def test_absl_lines_of_orbax_that_are_no_news():
    def record(path, text):
        return logging.LogRecord("absl", logging.WARNING, path, 1, text, (), None)

    telling = orbax_messages.is_worth_telling
    for text in orbax_messages._NO_NEWS:
        assert not telling(record("/x/orbax/checkpoint/a.py", f"{text}: %s"))
        assert telling(record("/x/clu/a.py", text))
    assert telling(record("/x/orbax/checkpoint/a.py", "A slow disk"))


def test_coroutines_that_nobody_awaited():
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        quieten()
        for name in ("async_deserialize", "ArrayHandler._serialize", "fetch"):
            told_of = f"coroutine '{name}' was never awaited\n"
            warnings.warn(told_of, RuntimeWarning, stacklevel=1)
    assert ["fetch" in str(one.message) for one in told] == [True]


def test_of_an_array_that_cannot_be_read_the_cause_is_told():
    details = "<bound method pybind11_detail_function_record_v1 of <x>>"
    error = Exception(f"Encountered error. See full TensorStore details: {details}")
    assert first_line(error) == "Exception: Encountered error"
    error.__cause__ = ValueError("DATA_LOSS: torn [tensorstore_spec='{}']")
    assert first_line(error) == "ValueError: DATA_LOSS: torn"
