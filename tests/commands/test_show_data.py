"""The contact sheet equals the loader's and the step's examples, draw by draw."""

import itertools
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image

from vl_ltr_jax.commands import show_data
from vl_ltr_jax.config import build as configs
from vl_ltr_jax.data.batches import loader
from vl_ltr_jax.run import inputs as run_inputs
from vl_ltr_jax.run import run
from worlds import image_world

ARGUMENTS = [
    "--config=configs/image_list.py",
    "--config.data.name=world",
    "--config.pretrain.global_batch_size=8",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return image_world.write(tmp_path_factory.mktemp("world"))


def checked(root, **data):
    config = image_world.configure(root)
    config.data.train_recipe = "rand_augment"
    for key, value in data.items():
        config.data[key] = value
    return configs.from_config_dict(config)


def batches(config):
    """The host batches of training with text, and the inputs they come from."""
    inputs = run_inputs.read(config)
    feed = run_inputs.feed(config, config.pretrain.global_batch_size)
    return inputs, feed.train(
        inputs.data.train,
        run_inputs.train_transform(config),
        sampling=config.pretrain.sampling,
        sentences=loader.Sentences(inputs.corpus.labels, inputs.tokens, 8),
    )


def test_it_shows_the_examples_of_training(root):
    """Draws 5 to 12 of epoch 1 of 36 draws: rows of steps 5 and 6, sentences too."""
    config = checked(root, erase_probability=0.0)
    examples = list(show_data.training_examples(config, 1, 5, 8))
    inputs, host_batches = batches(config)
    steps = list(itertools.islice(host_batches, 7))
    for number, example in enumerate(examples):
        step, row = divmod(36 + 5 + number, 8)
        pixels = steps[step]["image"][row].astype(int)
        assert np.abs(example.model_input.astype(int) - pixels).max() <= 1
        sentence = inputs.corpus.sentences[steps[step]["sentence_id"][row]]
        assert example.sentence == sentence
        label = steps[step]["label"][row]
        count = int(inputs.data.train_counts[label])
        group = "medium" if count >= 20 else "few"
        expected = (
            f"epoch 1, draw {5 + number}: {inputs.data.class_names[label]} "
            f"(label {label}, {count} images, {group})"
        )
        assert example.caption == expected


def test_erasing_is_that_of_the_step(root):
    """Broken by another key, or by a row's place on the sheet for its place in B."""
    config = checked(root, erase_probability=1.0, train_recipe="none")
    examples = list(show_data.training_examples(config, 0, 8, 8))
    inputs, host_batches = batches(config)
    images = list(itertools.islice(host_batches, 2))[1]["image"]
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    bound = run.Run(config, epath.Path("unused"), inputs)
    prepare = jax.jit(lambda pixels: bound.prepare(key, pixels, jax.numpy.arange(8)))
    expected = np.asarray(prepare(images))
    mean, std = np.array(show_data.transforms.NORMALIZATIONS["clip"], np.float32)
    back = np.round((expected * std + mean) * 255).clip(0, 255).astype(np.uint8)
    np.testing.assert_array_equal(
        np.stack([example.model_input for example in examples]), back
    )
    assert (images != back).any(axis=(1, 2, 3)).all()


def test_the_sheet_has_every_picture_in_its_place(root):
    config = checked(root, erase_probability=0.0)
    examples = list(show_data.training_examples(config, 0, 0, 5))
    sheet = np.asarray(show_data.contact_sheet(examples, 2))
    cell_width, cell_height = 2 * 112 + 8 + 8, 112 + 6 * 15 + 8
    assert sheet.shape == (3 * cell_height + 8, 2 * cell_width + 8, 3)
    for number, example in enumerate(examples):
        row, column = divmod(number, 2)
        top, start = 8 + row * cell_height, 8 + column * cell_width
        for offset, pixels in enumerate((example.model_input, example.eval_picture)):
            enlarged = np.asarray(Image.fromarray(pixels).resize((112, 112)))
            edge = start + offset * 120
            area = sheet[top : top + 112, edge : edge + 112]
            np.testing.assert_array_equal(area, enlarged)


def test_the_command_writes_a_picture_and_nothing_else(root, tmp_path):
    out = tmp_path / "new" / "sheet.png"
    output = subprocess.check_output(
        [sys.executable, "-m", "vl_ltr_jax.data.show", *ARGUMENTS]
        + [f"--config.data.root={root}", f"--out={out}"]
        + ["--count=4", "--epoch=2", "--draw=7"],
        text=True,
        env={**os.environ, "XLA_FLAGS": ""},
    )
    lines = output.splitlines()
    assert lines[-1] == str(out) and len(lines) == 5
    assert lines[0].startswith("epoch 2, draw 7: ") and "world_train.txt:" in lines[0]
    assert [path.name for path in out.parent.iterdir()] == ["sheet.png"]
    with Image.open(out) as sheet:
        assert sheet.size == (3 * 240 + 8, 2 * 210 + 8)


def test_a_draw_outside_the_epoch_is_named(root):
    with pytest.raises(configs.ConfigError, match="--draw=36"):
        next(show_data.training_examples(checked(root), 0, 36, 1))
