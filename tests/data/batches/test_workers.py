"""0, 1 or 4 worker processes make the same batches, for 1 or 2 shares."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from processes import worker_batches
from vl_ltr_jax.data.batches import examples
from vl_ltr_jax.data.shapes import dataset
from worlds import image_world


def start(*arguments, **options):
    program = Path(worker_batches.__file__)
    return subprocess.Popen(
        [sys.executable, program, *arguments],
        env={**os.environ, "PYTHONPATH": str(program.parents[2])},
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
    """Batches made by workers, and those made here without them."""
    root = image_world.write(tmp_path_factory.mktemp("world"))
    out = root / "batches.npz"
    program = start(root, out, stderr=subprocess.PIPE)
    _, errors = program.communicate(timeout=240)
    assert program.returncode == 0, errors
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(examples, "_RETRY_AFTER_SECONDS", ())
        (root / "images/crimson/train_3.jpg").write_bytes(
            (root / "images/crimson/train_2.jpg").read_bytes()
        )
        data = worker_batches.world(root)
        here = {
            "train": worker_batches.train(data.train, num_threads=0),
            "resumed": worker_batches.train(data.train, num_threads=2, start_step=2),
            "test": worker_batches.evaluate(data.test, num_threads=2),
        }
    return np.load(out), here


def assert_same(by_workers, name, expected):
    for number, batch in enumerate(expected):
        for key, values in batch.items():
            other = by_workers[f"{name}/{number}/{key}"]
            assert other.dtype == values.dtype
            np.testing.assert_array_equal(other, values, f"{name} {number} {key}")
    assert f"{name}/{len(expected)}/image" not in by_workers


@pytest.mark.parametrize("workers", [1, 4])
def test_workers_give_the_batches_of_one_process(batches, workers):
    """A bad image among them is replaced alike; broken by batches dealt by element."""
    by_workers, here = batches
    for process in range(2):
        share = [
            {key: np.split(values, 2)[process] for key, values in batch.items()}
            for batch in here["train"]
        ]
        assert_same(by_workers, f"train {workers} {process}", share)
    assert_same(by_workers, f"resumed {workers}", here["resumed"])
    assert_same(by_workers, f"test {workers}", here["test"])
    np.testing.assert_array_equal(
        here["resumed"][0]["image"], here["train"][2]["image"]
    )


def test_the_embedded_pictures_travel_to_workers(batches):
    """A memoised function of a function cannot be pickled."""
    by_workers, _ = batches
    val = dataset.load().val.select(np.arange(9))
    here = worker_batches.evaluate(val, num_threads=0)
    assert_same(by_workers, "shapes", here)


def test_a_killed_worker_ends_the_run(batches):
    """Broken by waiting for its batch for ever."""
    message = str(batches[0]["killed/0/image"])
    assert "data.num_workers=2" in message and "-9" in message


def test_workers_end_when_their_parent_is_killed(tmp_path):
    """Else each keeps its memory, and batches in /dev/shm, until the machine restarts.

    Broken without the watch: what a worker waits for never comes.
    """
    parent = start(image_world.write(tmp_path / "world"), "wait")
    workers = [Path("/proc") / pid for pid in parent.stdout.readline().split()]
    assert len(workers) == 2 and all(path.exists() for path in workers)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 60
    while any(path.exists() for path in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(path.exists() for path in workers)
