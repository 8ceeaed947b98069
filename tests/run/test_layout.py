"""The number of chunks that a stage takes, and keeps."""

import types

import jax
import jax.numpy as jnp
import optax
import pytest
from etils import epath

from vl_ltr_jax.config import settings
from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.models.clip import PRESETS
from vl_ltr_jax.run import layout
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.train import flops, memory
from vl_ltr_jax.train import stage as training

MIB = 2**20
# Of a step, by its chunks.
MIBS = {1: 100, 2: 60, 4: 45, 8: 44}


class Job(training.Job):
    """A training stage whose compiled step is its number of bytes."""

    def compiled(self, frozen, shardings, mesh, config):
        assert isinstance(frozen, jax.ShapeDtypeStruct)
        return self

    def compile(self, state, batch):
        assert batch == {"rows": 2}  # the largest of the shapes
        if self.batches(0) == 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no room")
        return flops.Counted(MIBS[self.batches(0)] * MIB, 0.0, None)


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
    """A function from MiB of a device to the chosen number of chunks."""
    monkeypatch.setattr(memory, "peak", lambda program: program)
    mesh = meshes.make_mesh(devices=jax.devices()[:2])
    run = object.__new__(Run)
    run.mesh, run.config = mesh, Config()

    def choose(limit):
        monkeypatch.setattr(memory, "limit", lambda device: limit * MIB)
        directory = epath.Path(tmp_path / "stage")
        return layout.choose(lambda chunks: job(directory, chunks), run).batches(0)

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


def test_a_record_that_does_not_divide_is_refused(chosen, tmp_path):
    """A batch of 16 on two devices; the record is of another number of devices."""
    layout.record(epath.Path(tmp_path / "stage"), 16)
    with pytest.raises(layout.LayoutError, match="mesh.accumulation_steps"):
        chosen(60)


@pytest.mark.parametrize(
    "batch_size, devices, counts",
    [(16, 2, [1, 2, 4, 8]), (200, 8, [1, 5, 25]), (24, 2, [1, 2, 3, 4, 6, 12])],
)
def test_every_number_that_divides_is_tried(batch_size, devices, counts):
    assert list(layout.chunk_counts(batch_size, devices)) == counts


@pytest.mark.parametrize(
    "vision, train_batch_norm, steps, expected",
    [
        ("resnet", True, 0, (False, 1)),
        ("resnet", False, 0, (True, 1)),
        ("vit", True, 0, (True, 1)),
        ("resnet", True, 4, (False, 4)),
    ],
)
def test_devices_never_choose_the_statistics_of_a_resnet(
    vision, train_batch_norm, steps, expected
):
    """Breaks if a smaller card gives another BatchNorm than a larger one."""
    run = object.__new__(Run)
    changes = {
        "pretrain.train_batch_norm": train_batch_norm,
        "mesh.accumulation_steps": steps,
    }
    run.config = settings.changed(Config(), changes)
    sizes = {"vit": "ViT-tiny", "resnet": "RN-tiny"}
    run.inputs = types.SimpleNamespace(clip_config=PRESETS[sizes[vision]])
    assert (run.chooses_chunks, run.chunks) == expected
