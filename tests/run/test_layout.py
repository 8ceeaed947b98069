"""The number of chunks that a stage takes, and keeps."""

import jax
import jax.numpy as jnp
import optax
import pytest
from etils import epath

from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.run import layout
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.train import flops, memory
from vl_ltr_jax.train import stage as training

# Bytes of a step by its chunks.
BYTES = {1: 100, 2: 60, 4: 45, 8: 44}


class Job(training.Job):
    """A training stage whose compiled step is its number of bytes."""

    def compiled(self, frozen, shardings, mesh, config):
        assert isinstance(frozen, jax.ShapeDtypeStruct)
        return self

    def compile(self, state, batch):
        assert batch == {"rows": 2}  # the largest of the shapes
        if self.batches(0) == 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no room")
        return flops.Counted(BYTES[self.batches(0)], 0.0, None)


def job(directory, chunks):
    """A stage whose batches are its number of chunks."""
    return Job(
        training.Plan(1, 16, optax.constant_schedule(1.0), None),
        lambda optimizer: None,
        optax.sgd(0.1),
        lambda: jnp.zeros(2),
        {"params": {"w": jnp.zeros(3)}},
        lambda first_step: chunks,
        directory,
        batch_shapes=lambda: [{"rows": 1}, {"rows": 2}],
    )


@pytest.fixture
def chosen(tmp_path, monkeypatch):
    """A function from the memory of a device to the chosen number of chunks."""
    monkeypatch.setattr(memory, "peak", lambda program: program)
    mesh = meshes.make_mesh(devices=jax.devices()[:2])
    run = object.__new__(Run)
    run.mesh, run.config = mesh, Config()

    def choose(limit):
        monkeypatch.setattr(memory, "limit", lambda device: limit)
        directory = epath.Path(tmp_path / "stage")
        return layout.choose(lambda chunks: job(directory, chunks), run)

    return choose


@pytest.mark.parametrize("limit, chunks", [(62, 2), (59, 4), (45, 8), (0, 1)])
def test_the_smallest_number_that_fits_is_taken(chosen, limit, chunks):
    """Breaks with a smaller number, or if a refusal of the compiler ends the run."""
    assert chosen(limit) == chunks


def test_a_stage_that_has_begun_keeps_its_number(chosen):
    """Breaks if more memory changes the chunks, whose BatchNorm differs."""
    assert [chosen(46), chosen(1000), chosen(0)] == [4, 4, 4]


def test_no_number_fits(chosen):
    with pytest.raises(layout.LayoutError, match="mesh.fsdp"):
        chosen(10)


@pytest.mark.parametrize("content", ["", "{}", '{"accumulation_steps": 0}'])
def test_a_damaged_record_is_named(chosen, tmp_path, content):
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "layout.json").write_text(content)
    with pytest.raises(layout.LayoutError, match="layout.json"):
        chosen(60)
