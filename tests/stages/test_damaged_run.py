"""A finished stage whose checkpoint has been damaged since."""

import jax
import numpy as np
import pytest
from etils import epath

from vl_ltr_jax.checkpoint import restore
from vl_ltr_jax.storage.artifact import Artifact
from vl_ltr_jax.train import stage as training
from worlds import image_world
from worlds.file_damage import flip, largest_file


def trained(workdir):
    left = Artifact(epath.Path(workdir / "pretrain"), {})
    return training.trained(left)["params"]


def test_it_goes_on_from_the_checkpoint_before(tmp_path, capsys):
    """Breaks if the next stage takes older weights, or damaged ones, or gives up; and
    if a kill, while the stage is made again, makes the next start do so."""
    root, workdir = image_world.write(tmp_path / "world"), tmp_path / "run"
    config = image_world.configure(root)
    config.finetune.epochs = 0
    config.log.checkpoint_every_steps = 2
    results = image_world.run(config, workdir)
    whole = trained(workdir)
    for stage in ("embed", "evaluate"):
        (workdir / stage).rename(tmp_path / stage)
    flip(largest_file(workdir / "pretrain" / "checkpoints" / "12" / "model"))
    with pytest.raises(restore.DamagedError, match="move artifact.json out of"):
        trained(workdir)
    # What a kill leaves that comes when the damaged one has just been moved aside.
    checkpoints = workdir / "pretrain" / "checkpoints"
    (checkpoints / "12").rename(checkpoints / "unreadable-12")
    with pytest.raises(restore.DamagedError, match="step 12, the last, is gone"):
        trained(workdir)
    again = image_world.run(config, workdir)
    told = capsys.readouterr().err
    assert "is gone. pretrain goes on from the checkpoint before\n" in told
    assert again["test"] == results["test"]
    equal = jax.tree.map(np.array_equal, trained(workdir), whole)
    assert all(jax.tree.leaves(equal))
