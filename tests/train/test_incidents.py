"""What a run keeps of a step that was not finite comes back, or is refused by name."""

import dataclasses
import json

import pytest
from etils import epath

from vl_ltr_jax.train import incidents
from vl_ltr_jax.train.incidents import Incident, IncidentError


def test_it_comes_back_and_is_found(tmp_path):
    kept = Incident(7, ["loss"], {"loss": "nan", "rate": 0.5}, [3, 1], [], 4, [2], "x")
    directory = epath.Path(tmp_path)
    kept.write(incidents.path_of(directory, 7))
    assert incidents.steps(directory) == [7]
    assert incidents.read(incidents.path_of(directory, 7)) == kept


def test_those_of_steps_that_are_made_again_are_set_aside(tmp_path):
    """Breaks if replay leaves out a step that the run has made after all."""
    directory = epath.Path(tmp_path)
    for step in (3, 7, 12):
        Incident(step, [], {}, [], [], None).write(incidents.path_of(directory, step))
    incidents.set_aside(directory, 7)
    assert incidents.steps(directory) == [3, 7]
    assert incidents.read(directory / "non_finite" / "step_12_before.json").step == 12


@pytest.mark.parametrize(
    ("name", "value"),
    [("skipped", 5), ("images", ["a"]), ("checkpoint", "4"), ("metrics", None)],
)
def test_a_file_of_other_types_is_refused_by_name(tmp_path, name, value):
    path = epath.Path(tmp_path / "step_7.json")
    kept = Incident(7, ["loss"], {"loss": "nan"}, [3, 1], [], 4, [2], "x")
    path.write_text(json.dumps({**dataclasses.asdict(kept), name: value}))
    with pytest.raises(IncidentError, match=r"step_7.json cannot be read .*Move it"):
        incidents.read(path)


@pytest.mark.parametrize(
    "content", ["", "[1]", '{"step": 1}', "[" * 100_000, b"\xff", '{"\\ud800": 1}']
)
def test_damage_is_refused_by_name(tmp_path, content):
    """The nesting without end is a RecursionError where Python's parser is asked."""
    path = epath.Path(tmp_path / "step_7.json")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(IncidentError, match=r"step_7.json cannot be read .*Move it"):
        incidents.read(path)
