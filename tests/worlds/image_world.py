"""A small data set of image files, and configurations that run on it in seconds."""

from pathlib import Path

import numpy as np
import pytest
from etils import epath

import vl_ltr_jax
from vl_ltr_jax.config import build as configs
from vl_ltr_jax.config.build import default_config
from vl_ltr_jax.recognizer.card import RecognizerError
from vl_ltr_jax.report import write as report
from vl_ltr_jax.run import inputs as run_inputs
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.stages import pipeline
from worlds import checked_world

COLOURS = {"crimson": (200, 20, 40), "azure": (20, 90, 220), "moss": (60, 120, 30)}
IMAGE_SIZE = 16
PROSE = "A {0} thing is {0}. It was named in 1801. It looks {0}.\n"
COUNTS = {"train": (24, 9, 3), "val": (3, 3, 3), "test": (5, 5, 5)}


def _draw(rng, label):
    pixels = np.array(tuple(COLOURS.values())[label]) + rng.normal(0, 25, (20, 24, 3))
    return pixels.clip(0, 255).astype(np.uint8)


def write(root: Path) -> Path:
    """Writes three classes of unlike colours in the authors' layout."""
    return checked_world.write(root, tuple(COLOURS), COUNTS, PROSE, _draw)


def configure(root: Path):
    """Returns the tiny CLIP's configuration: 9 steps in each training stage."""
    config = default_config()
    config.data.source = "image_list"
    config.data.root = str(root)
    config.data.name = "world"
    config.data.prompts = "plain"
    config.data.train_recipe = "plain"
    config.data.num_threads = 2
    config.model.backbone = "ViT-tiny"
    config.model.image_size = IMAGE_SIZE
    config.init.clip = "tiny_clip"
    for stage in (config.pretrain, config.finetune):
        stage.epochs = 3
        stage.warmup_epochs = 1
        stage.global_batch_size = 8
        stage.learning_rate = 1e-4
        stage.schedule = "step"
    config.finetune.mixup_alpha = config.finetune.cutmix_alpha = 0.0  # slow to compile
    config.anchors.num_anchors = 2
    config.evaluate.batch_size = 8
    config.log.every_steps = 1
    config.log.progress_seconds = 0.0
    config.log.checkpoint_every_steps = 1000  # at the end: to save takes longest here
    return config


def write_config(directory: Path, **changes) -> Path:
    """Writes the data set, and a file with its configuration."""
    root = write(directory / "world")
    path = directory / "config.py"
    path.write_text(
        "from pathlib import Path\n"
        "from worlds import image_world as world\n\n\n"
        "def get_config():\n"
        f"    config = world.configure(Path({str(root)!r}))\n"
        f"    return world.change(config, **{changes!r})\n"
    )
    return path


def change(config, **changes):
    """Sets `section__key=value` or `key=value`."""
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        (config[section] if section else config)[name] = value
    return config


def run(config, workdir, explicit=()):
    """Runs all stages and writes the report; returns the results."""
    checked = configs.from_config_dict(config, explicit)
    workdir = epath.Path(workdir)
    inputs = run_inputs.read(checked)
    pipeline.check(checked, workdir, inputs)
    bound = Run(checked, workdir, inputs)
    results = pipeline.run(bound)
    report.write(bound, results, with_page=False)
    return results


def check_loaded(root, workdir):
    """Asserts that a loaded head without language predicts as in evaluation.

    Breaks if another head is loaded, or one uncentred or of another scale.
    """
    rows = (root / "world_test.txt").read_text().splitlines()
    recognizer = vl_ltr_jax.load(workdir)
    predictions = recognizer.predict([root / row.rpartition(" ")[0] for row in rows])
    expected = np.load(Path(workdir) / "evaluate" / "test_probabilities.npy")
    probabilities = [prediction.probabilities for prediction in predictions]
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(RecognizerError, match="language branch"):
        recognizer.add_class("jade", ["A jade thing."])
