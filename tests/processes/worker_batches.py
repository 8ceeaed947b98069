"""Batches made by worker processes, which absl must start: `test_workers.py` runs it.

python worker_batches.py ROOT OUT.npz
"""

import itertools
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
from absl import app

from vl_ltr_jax.data.batches import loader
from vl_ltr_jax.data.images import transforms
from vl_ltr_jax.data.shapes import dataset
from vl_ltr_jax.data.sources import lists

BATCHES = 3


def start(split, *, start_step=0, **options):
    return loader.Feed(8, 5, bad_image_limit=0.1, **options).train(
        split,
        transforms.train_transform("rand_augment", 24),
        sentences=loader.Sentences(
            np.repeat(np.arange(3, dtype=np.int32), [3, 1, 4]),
            np.arange(40, dtype=np.uint16).reshape(8, 5),
            num_devices=2,
        ),
        start_step=start_step,
    )


def train(split, **options):
    return list(itertools.islice(start(split, **options), BATCHES))


def evaluate(split, **options):
    transform = transforms.eval_transform("clip", 24)
    return list(loader.Feed(8, **options).evaluate(split, transform))


def after_a_kill(split):
    """Returns the message after the system has killed a worker."""
    batches = start(split, num_workers=2)
    next(batches)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    try:
        while True:
            next(batches)
    except loader.WorkerDiedError as error:
        return str(error)


def world(root):
    data = lists.read_image_list(root, "world")
    (root / "images/crimson/train_3.jpg").write_bytes(b"broken since it was listed")
    return data


def wait_with_workers(split):
    """Prints the numbers of the workers, and waits to be killed."""
    batches = start(split, num_workers=2)
    next(batches)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    signal.pause()


def main(argv):
    if argv[2] == "wait":
        return wait_with_workers(world(Path(argv[1])).train)
    data = world(Path(argv[1]))
    results = {}
    for workers in (1, 4):
        for process in range(2):
            share = {"process_index": process, "process_count": 2}
            batches = train(data.train, num_workers=workers, **share)
            results[f"train {workers} {process}"] = batches
        batches = train(data.train, num_workers=workers, start_step=2)
        results[f"resumed {workers}"] = batches
        results[f"test {workers}"] = evaluate(data.test, num_workers=workers)
    shapes_lt = dataset.load().val
    results["shapes"] = evaluate(shapes_lt.select(np.arange(9)), num_workers=1)
    results["killed"] = [{"image": np.array(after_a_kill(data.train))}]
    arrays = {
        f"{name}/{number}/{key}": values
        for name, batches in results.items()
        for number, batch in enumerate(batches)
        for key, values in batch.items()
    }
    np.savez(argv[2], **arrays)


if __name__ == "__main__":
    app.run(main)
