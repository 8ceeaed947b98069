"""Stages as directories that are finished or do not count."""

import numpy as np
import pytest
from etils import epath

from vl_ltr_jax.storage.artifact import Artifact, ArtifactError, holds_array
from worlds.file_damage import full_disk

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def stage(tmp_path):
    """A finished stage."""
    artifact = Artifact(epath.Path(tmp_path / "embed"), {"seed": 1})
    artifact.begin()
    artifact.save_arrays(rows=ROWS)
    assert not artifact.finished
    artifact.finish({"seconds": 1.5})
    return artifact


def test_a_finished_stage_is_read_back(stage):
    stage.check()
    assert stage.finished and stage.summary() == {"seconds": 1.5}
    np.testing.assert_array_equal(stage.load_array("rows"), ROWS)
    np.testing.assert_array_equal(np.load(stage.directory / "rows.npy"), ROWS)
    assert holds_array(stage.directory / "rows.npy", (4, 3))
    assert not holds_array(stage.directory / "rows.npy", (3, 4))


@pytest.mark.parametrize("settings", [{"seed": 2}, {"seed": 1, "new": 0}, {}])
def test_other_settings_are_refused(stage, settings):
    """Breaks if a key that only one side has passes for equal."""
    with pytest.raises(ArtifactError, match="seed|new"):
        Artifact(stage.directory, settings).check()


def test_a_new_key_of_a_later_version_is_its_default(stage):
    """Breaks if each new key refuses all runs that began without it."""
    defaults = {"seed": 0, "new": 5, "speed": 1}
    Artifact(stage.directory, {"seed": 1, "new": 5}, defaults).check()
    with pytest.raises(ArtifactError, match="new"):
        Artifact(stage.directory, {"seed": 1, "new": 6}, defaults).check()
    # A stage of an older version depended on `speed`, this one's does not.
    Artifact(stage.directory, {"seed": 1, "speed": 2}).begin()
    Artifact(stage.directory, {"seed": 1}, defaults).check()


def test_arrays_without_room_are_named(stage):
    """Breaks if it is an OSError, which commands take for a bug."""
    with full_disk(size=4096), pytest.raises(ArtifactError, match="images.npy"):
        stage.save_arrays(images=np.ones((100, 100)))
    assert {path.name for path in stage.directory.iterdir()} == {
        *("artifact.json", "checksums.json", "rows.npy", "settings.json")
    }
    stage.check()
