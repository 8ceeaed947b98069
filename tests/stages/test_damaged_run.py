"""A finished stage with a damaged checkpoint."""

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
    artifact = Artifact(epath.Path(workdir / "pretrain"), {})
    return training.trained(artifact)["params"]


def test_a_run_goes_on_from_the_checkpoint_before(tmp_path, capsys):
    """Breaks if the next stage takes older or damaged weights, or gives up."""
    root, workdir = image_world.write(tmp_path / "world"), tmp_path / "run"
    config = image_world.configure(root)
    config.finetune.epochs = 0
    config.log.checkpoint_every_steps = 2
    results = image_world.run(config, workdir)
    params = trained(workdir)
    for stage in ("embed", "evaluate"):
        (workdir / stage).rename(tmp_path / stage)
    flip(largest_file(workdir / "pretrain" / "checkpoints" / "12" / "model"))
    with pytest.raises(restore.DamagedError, match="artifact.json"):
        trained(workdir)
    # As if a kill came when the damaged one had just been moved aside.
    checkpoints = workdir / "pretrain" / "checkpoints"
    (checkpoints / "12").rename(checkpoints / "unreadable-12")
    with pytest.raises(restore.DamagedError, match="step 12"):
        trained(workdir)
    again = image_world.run(config, workdir)
    assert "pretrain goes on from the checkpoint before" in capsys.readouterr().err
    assert again["test"] == results["test"]
    equal = jax.tree.map(np.array_equal, trained(workdir), params)
    assert all(jax.tree.leaves(equal))
