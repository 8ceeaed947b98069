"""Batches placed on the devices ahead of time."""

import itertools
import threading

import jax
import numpy as np
import pytest

from vl_ltr_jax.runtime import mesh as meshes


def test_batches_are_prefetched_in_order():
    ahead = threading.Event()

    def host_batches():
        for number in range(5):
            yield {"x": np.full((8, 2), number)}
            ahead.set()

    batches = meshes.prefetch(meshes.make_mesh(), host_batches(), size=2)
    first = next(batches)
    assert isinstance(first["x"], jax.Array)
    assert ahead.wait(60)  # the second is requested before its use
    assert [int(batch["x"][0, 0]) for batch in (first, *batches)] == list(range(5))


def test_an_error_of_the_loader_comes_when_its_batch_is_due():
    def host_batches():
        yield {"x": np.zeros((8, 2))}
        raise ValueError("no image")

    batches = meshes.prefetch(meshes.make_mesh(), host_batches())
    next(batches)
    with pytest.raises(ValueError, match="no image"):
        next(batches)


def test_endless_batches_close_without_waiting():
    endless = ({"x": np.zeros((8, 2))} for _ in itertools.count())
    batches = meshes.prefetch(meshes.make_mesh(), endless)
    next(batches)
    batches.close()
    assert next(batches, None) is None
