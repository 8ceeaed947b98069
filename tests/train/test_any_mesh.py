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
from worlds.loss_world import close
from worlds.mesh_world import IMAGES, batches, draw, everything

PROGRAM = Path(__file__).parents[1] / "processes" / "any_mesh_process.py"


@functools.cache
def on_one_device():
    return everything(meshes.make_mesh(devices=jax.devices()[:1]))


def compare(found):
    expected = on_one_device()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if name.endswith("/loss"):
            np.testing.assert_allclose(found[name], value, rtol=1e-6)
        elif np.issubdtype(value.dtype, np.floating):
            close(found[name], value, 1e-5)
        else:
            np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_what_is_compared_says_something():
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


def test_so_do_two_processes_of_four_devices(tmp_path):
    """Breaks if a process answers for rows that another has read."""
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
        said = [process.communicate(timeout=600)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], said
    for index in range(2):
        compare(dict(np.load(tmp_path / f"{index}.npz")))


def test_embeddings_are_float32_whatever_they_were_computed_in():
    """Breaks when bfloat16 reaches an artifact: a .npy of it cannot be read back."""
    narrow = jax.jit(lambda pixels: pixels.mean((1, 2)).astype(jnp.bfloat16))
    images, _ = embedding.embed_images(narrow, batches(draw()), meshes.make_mesh())
    assert images.dtype == np.float32
