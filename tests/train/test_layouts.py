"""One training step on any layout of devices, states and chunks is the same step."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vl_ltr_jax.config.settings import Pretrain
from vl_ltr_jax.data.images import transforms
from vl_ltr_jax.method import losses, mixup
from vl_ltr_jax.models.clip import Clip, ClipConfig, TextConfig, VisionConfig
from vl_ltr_jax.models.lgr import ClassLayout, LanguageGuidedHead, anchor_constants
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.train import finetune, pretrain
from vl_ltr_jax.train import state as train_state
from vl_ltr_jax.train.embedder import Embedder

# Plain gradient descent at rate 1: the update is the gradient.
DESCENT = optax.sgd(1.0)
BATCH, SENTENCES, CLASSES, ANCHORS = 32, 45, 11, 3


class World(NamedTuple):
    model: Clip
    variables: dict[str, Any]
    batch: dict[str, np.ndarray]
    texts: np.ndarray


TOWERS = {
    "vit": VisionConfig("vit", 16, 32, 2, 2, 8),
    "resnet": VisionConfig("resnet", 32, 8, (1, 1, 1, 1), 4),
}


@functools.cache
def world(kind):
    """A small model in which no parameter is zero or one, and a batch."""
    config = ClipConfig(TOWERS[kind], TextConfig(32, 1, 2, 9, 60), 24)
    rng = np.random.default_rng(3)
    size, text = config.vision.image_size, config.text
    tokens = rng.integers(1, text.vocab_size - 1, (BATCH, text.context_length))
    tokens[:, -1] = text.vocab_size - 1
    batch = {
        "image": rng.integers(0, 256, (BATCH, size, size, 3), np.uint8),
        "label": rng.integers(0, CLASSES, BATCH).astype(np.int32),
        "tokens": tokens.astype(np.int32),
        "sentence_id": rng.integers(0, SENTENCES, BATCH).astype(np.int32),
    }
    texts = rng.normal(size=(SENTENCES, config.embed_dim)).astype(np.float32)
    init = jax.jit(Clip(config).init)(
        jax.random.key(0), np.zeros((1, size, size, 3), np.float32), tokens[:1]
    )
    variables = jax.tree.map(
        lambda leaf: leaf + rng.normal(0, 0.05, leaf.shape).astype(np.float32),
        jax.device_get(dict(init)),
    )
    return World(Clip(config), variables, batch, texts)


def prepare(key, images, rows):
    """Depends on the place in the batch, as erasing does."""
    scale = (1 + rows / BATCH)[:, None, None, None]
    return transforms.normalize(images, "clip") * scale


def mix(key, images, labels):
    """Blends with the reversed batch, as mixup does."""
    targets = losses.one_hot_smooth(labels, CLASSES, 0.1)
    weight = jnp.full((1, 1), 0.7)
    return mixup.blend(images, weight[..., None, None]), mixup.blend(targets, weight)


def place_state(params, batch_stats, mesh, fsdp):
    state = train_state.create(params, DESCENT, batch_stats)
    # Everything splits, so that a tiny model exercises what a large one needs.
    shardings = meshes.shard_largest_axis(mesh, state, axis=fsdp, min_elements=1)
    return meshes.place(jax.device_get(state), shardings), shardings


def run(step, frozen, state, shardings, batch, mesh):
    """Returns gradients, statistics and metrics of one step."""
    step = jax.jit(step, out_shardings=(shardings, meshes.replicated(mesh)))
    after, metrics = step(frozen, state, meshes.to_global(mesh, batch))
    for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        assert new.sharding.is_equivalent_to(old.sharding, new.ndim)
    params = [meshes.to_host(s.params) for s in (state, after)]
    gradients = jax.tree.map(lambda old, new: old - new, *params)
    return gradients, meshes.to_host(after.batch_stats), jax.device_get(metrics)


def make_mesh(devices):
    return meshes.make_mesh(*devices, devices=jax.devices()[: np.prod(devices)])


def pretraining_step(kind, mesh, accumulation_steps, **section):
    embedder = Embedder(world(kind).model, prepare, 0, mesh, accumulation_steps)
    schedule = optax.constant_schedule(1.0)
    return pretrain.make_step(embedder, DESCENT, schedule, Pretrain(**section))


@functools.cache
def pretrained(kind, devices=(1, 1), fsdp="none", accumulation_steps=1, **section):
    this, mesh = world(kind), make_mesh(devices)
    step = pretraining_step(kind, mesh, accumulation_steps, **section)
    params = {k: v for k, v in this.variables["params"].items() if k != "text"}
    teacher = pretrain.Teacher(
        meshes.place({**this.variables, "params": params}, meshes.replicated(mesh)),
        meshes.shard_rows(mesh, this.texts),
    )
    state, shardings = place_state(
        this.variables["params"], this.variables.get("batch_stats"), mesh, fsdp
    )
    return run(step, teacher, state, shardings, this.batch, mesh)


def compare(actual, expected, gradient_tolerance=1e-5):
    for name, value in expected[2].items():
        rtol = 1e-5 if name == "gradient_norm" else 1e-6
        np.testing.assert_allclose(actual[2][name], value, rtol=rtol, err_msg=name)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected[0]))

    def close(ours, gradient):
        scale = max(np.abs(gradient).max(), largest / 100)
        atol = gradient_tolerance * scale
        np.testing.assert_allclose(ours, gradient, rtol=0, atol=atol)

    jax.tree.map(close, actual[0], expected[0])
    equal = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(equal, actual[1], expected[1])


@pytest.mark.parametrize(
    ("kind", "layout"),
    [
        ("vit", {"devices": (8, 1), "fsdp": "data"}),
        ("vit", {"devices": (2, 4), "fsdp": "model"}),
        ("vit", {"devices": (4, 1), "accumulation_steps": 2, "fsdp": "data"}),
        ("resnet", {"devices": (4, 2), "fsdp": "data", "accumulation_steps": 2}),
    ],
    ids=str,
)
def test_a_pretraining_step_is_the_same_on_any_layout(kind, layout):
    """The ResNet has frozen statistics. Breaks if a loss sees a part of the batch, or
    chunks are averaged. Breaks if erasing follows the place in a chunk."""
    compare(pretrained(kind, **layout), pretrained(kind))


def test_training_statistics_are_those_of_each_chunk():
    """Each chunk uses its own statistics and updates the running ones in turn.

    Breaks if statistics are carried wrongly, or updated twice by the backward pass.
    """
    this, chunks = world("resnet"), 2
    key = jax.random.fold_in(jax.random.key(0), 0)
    pixels = prepare(key, jnp.asarray(this.batch["image"]), jnp.arange(BATCH))

    def reference(params):
        stats, parts = this.variables["batch_stats"], []
        for first in range(chunks):
            embedded, updated = this.model.apply(
                {"params": params, "batch_stats": stats},
                pixels[first::chunks],
                jnp.asarray(this.batch["tokens"])[first::chunks],
                train=True,
                mutable=["batch_stats"],
            )
            stats = updated["batch_stats"]
            parts.append(embedded)
        image, text = (
            jnp.stack(part, axis=1).reshape(BATCH, -1)
            for part in zip(*parts, strict=True)
        )
        logits = losses.contrastive_logits(image, text, params["logit_scale"])
        loss, _ = losses.classwise_contrastive(logits, jnp.asarray(this.batch["label"]))
        return loss, stats

    differentiate = jax.jit(jax.grad(reference, has_aux=True))
    gradients, stats = differentiate(this.variables["params"])
    options = {"train_batch_norm": True, "distillation_weight": 0.0}
    actual = pretrained("resnet", (2, 1), accumulation_steps=chunks, **options)
    compare((*actual[:2], {}), (gradients, stats, {}), 1e-4)


def test_a_chunked_step_needs_less_memory():
    """Breaks if the activations of all chunks are kept for the backward pass."""
    this, mesh = world("vit"), meshes.make_mesh(devices=jax.devices()[:1])
    state, _ = place_state(this.variables["params"], None, mesh, "none")
    batch = meshes.to_global(
        mesh, {name: np.concatenate([rows] * 8) for name, rows in this.batch.items()}
    )

    def temporary_bytes(accumulation_steps):
        step = pretraining_step("vit", mesh, accumulation_steps)
        program = jax.jit(step).lower(None, state, batch).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert temporary_bytes(8) < temporary_bytes(1) / 3


@functools.cache
def finetuned(devices=(1, 1), fsdp="none", accumulation_steps=1):
    this, mesh = world("vit"), make_mesh(devices)
    width, shards = this.model.config.embed_dim, devices[1]
    rng = np.random.default_rng(4)
    embeddings = rng.normal(size=(CLASSES, ANCHORS, width)).astype(np.float32)
    present = rng.random((CLASSES, ANCHORS)) < 0.8
    head = LanguageGuidedHead(
        CLASSES, width, 3.0, layout=ClassLayout(-(-CLASSES // shards) * shards)
    )
    placed = meshes.shard_rows(mesh, embeddings, "model")
    if shards > 1:
        assert placed.addressable_shards[0].data.shape[0] < CLASSES
    anchors = finetune.PlacedAnchors(
        placed,
        ~meshes.shard_rows(mesh, present, "model"),
        jax.jit(anchor_constants)(placed),
    )
    init = LanguageGuidedHead(CLASSES, width, 3.0).init
    example = (np.zeros((1, width), np.float32), embeddings, ~present)
    params = {
        "head": jax.jit(init)(jax.random.key(1), *example)["params"],
        "visual": this.variables["params"]["visual"],
    }
    embedder = Embedder(this.model, prepare, 0, mesh, accumulation_steps)
    step = finetune.make_step(embedder, head, DESCENT, {}, mix)
    towers = {"params": {"logit_scale": this.variables["params"]["logit_scale"]}}
    frozen = finetune.Frozen(meshes.place(towers, meshes.replicated(mesh)), anchors)
    state, shardings = place_state(params, None, mesh, fsdp)
    batch = {name: this.batch[name] for name in ("image", "label")}
    return run(step, frozen, state, shardings, batch, mesh)


@pytest.mark.parametrize(
    "layout",
    [
        {"devices": (2, 4), "fsdp": "model"},
        {"devices": (4, 2), "fsdp": "data", "accumulation_steps": 2},
    ],
    ids=str,
)
def test_a_finetuning_step_is_the_same_on_any_layout(layout):
    """11 classes over 2 or 4 shards of `model`. Breaks if a class that fills a shard
    gets a logit, or if mixing happens within a chunk."""
    compare(finetuned(**layout), finetuned())
