"""The benchmark of image pipelines: its sides do what they say."""

import os
import subprocess
import sys

import numpy as np
import pytest

from vl_ltr_jax.benchmarks import data


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return data.write_photographs(tmp_path_factory.mktemp("photographs"), 3)


def test_photographs_have_the_size_and_weight_of_imagenets(paths):
    assert data.photograph(0).size == (500, 375)
    sizes = [path.stat().st_size for path in paths]
    assert 80_000 < min(sizes) < max(sizes) < 130_000


def test_both_sides_do_all_of_the_recipe(paths):
    """Other pixels at each position; the plain side is erased and normalised."""
    ours, plain = data.ours(paths, "rand_augment"), data.plain(paths)
    assert ours(0).shape == (224, 224, 3) and ours(0).dtype == np.uint8
    assert plain(0).shape == (3, 224, 224) and plain(0).dtype == np.float32
    assert (ours(0) != ours(1)).any() and (plain(0) != plain(1)).any()
    np.testing.assert_array_equal(ours(5), ours(5))
    assert np.mean([plain(position) for position in range(8)]).round(1) < 1


def test_erasing_replaces_a_quarter_of_the_pictures():
    rng = np.random.default_rng(0)
    pixels = np.full((3, data.SIDE, data.SIDE), 9.0, np.float32)
    shares = np.array(
        [(data.erase(pixels.copy(), rng) != 9.0).mean() for _ in range(400)]
    )
    assert 0.18 < (shares > 0).mean() < 0.32
    assert shares[shares > 0].min() > 0.015 and shares.max() < 0.36


def test_the_command_compares_all_sides():
    output = subprocess.check_output(
        [sys.executable, "-m", "vl_ltr_jax.benchmarks.data"]
        + ["--images=8", "--rounds=1"],
        text=True,
        env={**os.environ, "XLA_FLAGS": ""},
    )
    for words in ("times plain Pillow", "times tf.data", "times one core, one thread"):
        assert words in output
