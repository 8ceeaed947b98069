"""Losses, anchors and evaluation are the same on any mesh, two processes included."""

import functools
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vl_ltr_jax.run import embedding
from vl_ltr_jax.runtime import mesh as meshes
from worlds.golden import close
from worlds.mesh_world import IMAGES, batches, draw, everything

PROGRAM = Path(__file__).parents[1] / "processes" / "any_mesh_process.py"


@functools.cache
def on_one_device():
    return everything(meshes.make_mesh(devices=jax.devices()[:1]))


def compare(actual):
    expected = on_one_device()
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        if name.endswith("/loss"):
            np.testing.assert_allclose(actual[name], value, rtol=1e-6)
        elif np.issubdtype(value.dtype, np.floating):
            close(actual[name], value, 1e-5)
        else:
            np.testing.assert_array_equal(actual[name], value, err_msg=name)


def test_the_expected_numbers_are_no_extremes():
    expected = on_one_device()
    close(expected["rows/loss"], expected["streaming/loss"], 1e-6)
    assert expected["padding"].any() and not expected["padding"].all()
    for head in ("lgr", "knn", "zero_shot"):
        top1, top5, total, invalid = expected[f"{head}/counts"]
        assert total.sum() == IMAGES and not invalid.any()
        assert 0 < top5.sum() < IMAGES and top1.sum() <= top5.sum()


@pytest.mark.parametrize("shape", [(2, 1), (4, 1), (8, 1), (2, 4)])
def test_any_mesh_gives_the_numbers_of_one_device(shape):
    """Breaks if rows that fill a shard are found as neighbours or scored as a class."""
    devices = jax.devices()[: shape[0] * shape[1]]
    compare(everything(meshes.make_mesh(*shape, devices=devices)))


def test_two_processes_give_the_numbers_of_one_device(tmp_path):
    """Breaks if a process answers for rows that the other process has read."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, PROGRAM.parents[1:3])),
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']}"
        " --xla_force_host_platform_device_count=4",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, PROGRAM, str(port), str(index), "2", str(tmp_path)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        errors = [process.communicate(timeout=600)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], errors
    for index in range(2):
        compare(dict(np.load(tmp_path / f"{index}.npz")))


def test_embeddings_are_float32_for_every_compute_dtype():
    """Breaks when bfloat16 reaches an artifact: a .npy of it cannot be read back."""
    narrow = jax.jit(lambda pixels: pixels.mean((1, 2)).astype(jnp.bfloat16))
    images, _ = embedding.embed_images(narrow, batches(draw()), meshes.make_mesh())
    assert images.dtype == np.float32
