"""Programs of small runs, compiled for a TPU by its own compiler."""

import importlib.metadata
import re

import jax
import jax.numpy as jnp
import pytest

from vl_ltr_jax.config import build as configs
from vl_ltr_jax.config import settings
from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.models.attention import Target
from vl_ltr_jax.models.clip import PRESETS, ClipConfig, TextConfig, VisionConfig
from vl_ltr_jax.preflight import fit, hlo, inputs, programs, topology
from vl_ltr_jax.preflight.inputs import Counts, PlannedRun
from vl_ltr_jax.run.depends import settled
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.stages import pipeline
from worlds import image_world

TEXT = TextConfig(128, 1, 2, vocab_size=64)
VIT = ClipConfig(VisionConfig("vit", 56, 128, 1, 2, 8), TEXT, 128)
RESNET = ClipConfig(VisionConfig("resnet", 32, 16, (1, 1, 1, 1), 8), TEXT, 128)
COUNTS = Counts(classes=10, train=64, val=16, test=16, sentences=40)


@pytest.fixture(scope="module")
def v5e():
    return topology.read("v5e:2x2")


def configure(tmp_path, monkeypatch, size, **changes):
    monkeypatch.setitem(PRESETS, "ViT-B/16", size)
    config = image_world.configure(tmp_path / "absent")
    config.model.backbone = "ViT-B/16"
    config.model.image_size = size.vision.image_size
    return configs.resolve(image_world.change(config, **changes))


def compiled(config, devices, *stages):
    """Programs of a run by stage and name, as texts."""
    config = settled(config, None, devices.devices[0].platform)
    planned, _ = inputs.read(config, COUNTS)
    mesh = meshes.make_mesh(
        config.mesh.data, config.mesh.model, devices=devices.devices
    )
    with meshes.describing():
        run = PlannedRun(config, planned, mesh)
        return {
            (stage, program.name): program.compile().program.as_text()
            for stage in stages or pipeline.planned(config, planned)
            for program in programs.of_stage(run, stage)
        }


def float32_products(text):
    """Origins of products of two float32 factors."""
    found = []
    for body in text.split("\n}\n"):
        kinds = dict(re.findall(r"%([\w.\-]+) = (\w+)\[", body))
        for line in body.splitlines():
            match = re.search(r" (?:convolution|dot)\(%([\w.\-]+), %([\w.\-]+)\)", line)
            if match and {kinds.get(name) for name in match.groups()} == {"f32"}:
                found.append(re.search(r'op_name="([^"]*)"', line)[1])
    return found


def moved_by_reshape(text):
    """Origins of copies of arrays that a reshape around a layer's product causes."""
    entry = text[text.index("\nENTRY ") :]
    moves = (
        r" (?:copy|reshape|transpose)\(.*op_name=\"([^\"]*/(?:c_fc|\w+_proj)/reshape)\""
    )
    return re.findall(moves, entry)


def check_towers(texts):
    for key, text in texts.items():
        towers = [
            origin
            for origin in float32_products(text)
            if re.search("resblocks|layer[1-4]|conv1|attnpool|text_projection", origin)
        ]
        assert not towers, (key, towers)
        assert not moved_by_reshape(text), key


def test_every_program_compiles_for_a_tpu(v5e, tmp_path, monkeypatch):
    """Breaks with a float32 input of a tower's product, or rows flattened for a CPU."""
    changes = {
        "finetune__train_image_tower": True,
        "pretrain__global_batch_size": 32,
        "evaluate__knn_neighbours": 2,
    }
    texts = compiled(configure(tmp_path, monkeypatch, VIT, **changes), v5e)
    stages = [stage for stage, _ in texts]
    assert set(stages) == {"pretrain", "embed", "anchors", "finetune", "evaluate"}
    names = [name for stage, name in texts if stage == "pretrain"]
    assert sum(name.startswith("step, ") for name in names) == 2  # packed forms
    check_towers(texts)
    for name in names:  # a forward pass, or two and a backward one, in each tower
        kernels = len(re.findall("tpu_custom_call", texts["pretrain", name]))
        assert kernels == (5 if name.startswith("step") else 1)


def test_a_resnet_and_chunks_and_kept_features_compile(v5e, tmp_path, monkeypatch):
    """Breaks if training BatchNorm, or a kernel inside a chunk, does not compile."""
    changes = {"finetune__feature_views": 2, "pretrain__train_batch_norm": True}
    config = configure(tmp_path, monkeypatch, RESNET, **changes)
    texts = compiled(config, v5e, "pretrain", "finetune")
    assert ("finetune", "step on features") in texts
    assert ("finetune", "cached views") in texts
    check_towers(texts)
    changes = {"mesh__accumulation_steps": 2, "pretrain__distillation": "none"}
    config = configure(tmp_path, monkeypatch, VIT, **changes)
    [text] = compiled(config, v5e, "pretrain").values()
    assert "tpu_custom_call" in text and " while(" in text


def test_parameters_split_over_groups_of_a_large_slice(tmp_path, monkeypatch):
    """Breaks if each chip of a pod holds all moments, or a small slice splits them."""

    def mesh_of(name):
        return meshes.make_mesh(model=0, devices=topology.read(name).devices)

    def axes(mesh):
        leaf = jax.ShapeDtypeStruct((256, 512), jnp.float32)
        return tuple(meshes.shard_largest_axis(mesh, leaf, axis="auto").spec)

    pod = mesh_of("v5e:16x16")
    assert dict(pod.shape) == {"data": 16, "model": 16}
    assert axes(pod) == (None, "model")
    # Sixteen chips, which are 32 described devices; 24 that 16 does not divide.
    assert dict(mesh_of("v4:2x2x4").shape) == {"data": 32, "model": 1}
    assert dict(mesh_of("v5e:4x6").shape) == {"data": 24, "model": 1}
    slice_ = mesh_of("v5e:4x4")
    assert dict(slice_.shape) == {"data": 16, "model": 1}
    assert axes(slice_) == axes(meshes.make_mesh(4, 2)) == ()
    # A user who splits classes over a small slice does not split parameters.
    small = topology.read("v5e:2x4").devices
    assert axes(meshes.make_mesh(1, 8, devices=small)) == ()

    changes = {
        "pretrain__global_batch_size": 64,
        "pretrain__distillation": "none",
        "evaluate__batch_size": 64,
    }
    config = configure(tmp_path, monkeypatch, VIT, **changes)
    texts = compiled(config, topology.read("v5e:4x8"), "pretrain")
    check_towers(texts)
    assert all(hlo.collectives(text)["all-gather"] for text in texts.values())


def test_a_flattened_product_is_noticed(v5e, tmp_path, monkeypatch):
    """The test above can fail: with the CPU's form, rows move around each product."""
    monkeypatch.setattr(Target, "is_cpu", True)
    config = configure(tmp_path, monkeypatch, VIT)
    texts = compiled(config, v5e, "embed")
    assert any(moved_by_reshape(text) for text in texts.values())


def test_a_step_that_does_not_fit_gets_the_fewest_chunks(v5e, tmp_path, monkeypatch):
    """Breaks if a step is called fitting that is not, or a smaller change is passed."""
    devices = jax.devices()[:2]
    mesh = meshes.make_mesh(devices=devices)

    def measure(memory_bytes, batch_size=8):
        changes = {
            "pretrain__global_batch_size": batch_size,
            "pretrain__distillation": "none",
        }
        config = configure(tmp_path, monkeypatch, VIT, **changes)
        config = settled(config, None, "cpu")
        planned, _ = inputs.read(config, COUNTS)
        here = topology.Topology("local", devices, memory_bytes)
        return list(fit.stage(config, planned, mesh, here, "pretrain"))

    whole = measure(10**12)
    assert {one.accumulation_steps for one in whole} == {1}
    assert all(one.figures.fits and not one.changes for one in whole)
    least = max(one.figures.peak_bytes for one in whole)
    less = measure(least)  # a share of it is for batches
    assert {one.accumulation_steps for one in less} == {2}
    assert all(one.figures.peak_bytes < least for one in less)
    assert all(one.changes == {"mesh.accumulation_steps": 2} for one in less)
    explicit = settings.changed(Config(), {"mesh.accumulation_steps": 1})
    assert all(one.fits(Config()) and not one.fits(explicit) for one in less)
    none = measure(1000, batch_size=2)  # of one image a device: no chunks to try
    assert not any(one.figures.fits for one in none)
    assert {one.accumulation_steps for one in none} == {1}


@pytest.mark.parametrize(
    "name, classes", [("Places_LT", 365), ("ImageNet_LT", 1000), ("iNat18", 8142)]
)
def test_absent_data_has_published_sizes(name, classes, tmp_path, monkeypatch):
    config = configure(tmp_path, monkeypatch, VIT, data__name=name)
    planned, notes = inputs.read(config, Counts())
    assert planned.num_classes == classes
    assert len(planned.corpus.labels) == inputs.SENTENCES == planned.corpus.counts.sum()
    assert f"{inputs.SENTENCES:,}" in " ".join(notes)
    leaves = jax.tree.leaves(planned.clip)
    assert all(leaf.strides == (0,) * leaf.ndim for leaf in leaves)  # no memory


def test_unknown_data_needs_sizes(tmp_path, monkeypatch):
    config = configure(tmp_path, monkeypatch, VIT)
    with pytest.raises(configs.ConfigError, match="--num_classes"):
        inputs.read(config, Counts())


@pytest.mark.parametrize(
    "name",
    ["v5e:3x3", "v5e:banana", "v5e", "v9:2x2", "h100", "h100:0", "h100:many", ""],
)
def test_a_damaged_topology_is_refused_in_one_line(name):
    with pytest.raises(topology.TopologyError) as error:
        topology.read(name)
    assert "\n" not in str(error.value)
    assert f"--topology={name}" in str(error.value)


@pytest.mark.parametrize("name", ["v5e:2x2", "h100:8"])
def test_an_absent_compiler_is_named_with_its_extra(name, monkeypatch):
    def absent(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    with pytest.raises(topology.TopologyError, match="aot-"):
        topology.read(name)
