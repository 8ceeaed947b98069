"""What a run keeps of a step that was not finite comes back, or is refused by name."""

import pytest
from etils import epath

from vl_ltr_jax import incidents
from vl_ltr_jax.incidents import Incident, IncidentError


def test_it_comes_back_and_is_found(tmp_path):
    kept = Incident(7, ["loss"], {"loss": "nan", "rate": 0.5}, [3, 1], [], 4, [2], "x")
    directory = epath.Path(tmp_path)
    kept.write(incidents.path_of(directory, 7))
    assert incidents.steps(directory) == [7]
    assert incidents.read(incidents.path_of(directory, 7)) == kept


@pytest.mark.parametrize(
    "content", ["", "[1]", '{"step": 1}', "[" * 100_000, b"\xff", '{"\\ud800": 1}']
)
def test_damage_is_refused_by_name(tmp_path, content):
    """The nesting without end is a RecursionError where Python's parser is asked."""
    path = epath.Path(tmp_path / "step_7.json")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(IncidentError, match=r"step_7.json cannot be read .*delete it"):
        incidents.read(path)
