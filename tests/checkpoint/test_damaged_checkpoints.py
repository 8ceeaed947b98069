"""Checkpoints of which any file is damaged: a state that was saved, or a refusal."""

import gc
import shutil
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vl_ltr_jax.checkpoint.manager import Checkpoints
from vl_ltr_jax.checkpoint.restore import load_params
from vl_ltr_jax.runtime.errors import UserError
from worlds.file_damage import damaged_bytes, examples

STEPS = (1, 2)


@pytest.fixture(autouse=True)
def dropped():
    """What Orbax still reads when an array fails may warn now, not in another test."""
    yield
    gc.collect()


@flax.struct.dataclass
class State:
    step: jax.Array
    params: Any


def state_at(step):
    # So many that most bytes of a checkpoint are theirs, and none can be compressed.
    kernel = np.random.default_rng(step).standard_normal((32, 32), np.float32)
    return State(jnp.int32(step), {"kernel": jnp.asarray(kernel)})


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A directory with two checkpoints."""
    directory = tmp_path_factory.mktemp("checkpoints") / "saved"
    with Checkpoints(directory, every_steps=1) as checkpoints:
        for step in STEPS:
            checkpoints.save(step, state_at(step), {"step": step})
    return directory


@st.composite
def damage(draw, directory):
    """A file of the newest checkpoint, and what is in it now; None if it is gone."""
    newest = directory / str(STEPS[-1])
    files = sorted(path for path in newest.rglob("*") if path.is_file())
    largest = max(files, key=lambda path: path.stat().st_size)  # the arrays'
    path = draw(st.sampled_from(files) | st.just(largest))
    content = path.read_bytes()
    if draw(st.integers(0, 5)) == 0:
        return path.relative_to(directory), None
    return path.relative_to(directory), draw(damaged_bytes(content))


@examples(60)
@given(st.data())
def test_what_is_restored_was_saved(saved, data):
    path, content = data.draw(damage(saved))
    directory = saved.with_name("damaged")
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(saved, directory)
    if content is None:
        (directory / path).unlink()
    else:
        (directory / path).write_bytes(content)
    states = [state_at(step) for step in STEPS]
    try:
        params = load_params(directory)["params"]
        assert any(same(params, state.params) for state in states)
    except UserError as error:
        assert str(directory) in str(error)
    with Checkpoints(directory, every_steps=1) as checkpoints:
        restored, meta = checkpoints.restore_latest(states[0])
    assert same(restored, states[meta["step"] - 1])


def same(found, wanted):
    if jax.tree.structure(found) != jax.tree.structure(wanted):
        return False
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    return all(np.array_equal(one, other) for one, other in pairs)
