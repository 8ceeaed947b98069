"""Records of steps that were not finite are read back, or refused by name."""

import dataclasses
import json

import pytest
from etils import epath

from vl_ltr_jax.train import incidents
from vl_ltr_jax.train.incidents import Incident, IncidentError

INCIDENT = Incident(7, ["loss"], {"loss": "nan", "r": 0.5}, [3, 1], [], 4, [2], "x")
SOUND = dataclasses.asdict(INCIDENT)


def test_records_of_repeated_steps_are_set_aside(tmp_path):
    """Breaks if replay leaves out a step that the run has trained after all."""
    directory = epath.Path(tmp_path)
    for step in (3, 7, 12):
        INCIDENT.write(incidents.path_of(directory, step))
    incidents.set_aside(directory, 7)
    assert incidents.steps(directory) == [3, 7]
    assert incidents.read(incidents.path_of(directory, 7)) == INCIDENT
    assert incidents.read(directory / "non_finite" / "step_12_before.json") == INCIDENT


@pytest.mark.parametrize(
    "content",
    [
        *("", "[1]", '{"step": 1}', "[" * 100_000),
        json.dumps({**SOUND, "images": ["a"]}),
        json.dumps({**SOUND, "checkpoint": "4"}),
    ],
)
def test_damage_is_refused_by_name(tmp_path, content):
    path = epath.Path(tmp_path / "step_7.json")
    path.write_text(content)
    with pytest.raises(IncidentError, match="step_7.json"):
        incidents.read(path)
