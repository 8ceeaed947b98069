"""Forms of accelerators, in the interpreter, against the plain form and torch."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from vl_ltr_jax.models import attention, tpu_attention
from vl_ltr_jax.models.attention import Target, attend, target_of
from vl_ltr_jax.models.fused_gradients import add_bias, forked_layer_norm
from vl_ltr_jax.models.layers import LayerNorm
from vl_ltr_jax.runtime import mesh as meshes
from worlds.clip_oracle import relative_error

# Tokens, width, heads, and masks: none, one for all, or one for each sequence.
CASES = [
    (197, 128, 2, None),
    (50, 128, 1, None),
    (77, 256, 4, "row"),
    (24, 128, 4, "shared"),
]


def draw(length, width, mask, dtype=np.float32, batch=4):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(0, 1, (batch, length, width)) for _ in range(4)]
    visible = None
    if mask:
        rows = 1 if mask == "shared" else batch
        visible = rng.random((rows, 1, length, length)) < 0.5
        visible = jnp.asarray(visible | np.eye(length, dtype=bool)[None, None])
    return [jnp.asarray(array, dtype) for array in arrays], visible


def value_and_gradients(function, arrays):
    *inputs, direction = arrays
    mixed, pull = jax.vjp(function, *inputs)
    return (mixed, *pull(direction))


@pytest.mark.parametrize("length, width, heads, mask", CASES)
def test_values_and_gradients_are_those_of_torch(length, width, heads, mask):
    """Breaks without 1/sqrt(d), with a neighbour's lanes, or with a mask turned
    around, forward or backward."""
    arrays, visible = draw(length, width, mask)
    ours = value_and_gradients(
        lambda q, k, v: tpu_attention.attend(q, k, v, visible, heads, True), arrays
    )
    q, k, v, direction = (torch.tensor(np.asarray(array)) for array in arrays)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    mixed = torch.nn.functional.scaled_dot_product_attention(
        *(x.unflatten(2, (heads, -1)).transpose(1, 2) for x in inputs),
        None if visible is None else torch.tensor(visible),
    )
    mixed = mixed.transpose(1, 2).flatten(2)
    mixed.backward(direction)
    for actual, expected in zip(ours, (mixed, *(x.grad for x in inputs)), strict=True):
        assert relative_error(actual, expected.detach().numpy()) < 1e-5


def test_bfloat16_is_nearer_than_the_plain_form():
    """Breaks if logits or weights are rounded before the softmax."""
    exact, visible = draw(50, 128, "row")
    coarse = [array.astype(jnp.bfloat16) for array in exact]
    expected = value_and_gradients(
        lambda q, k, v: attend(q, k, v, 2, visible, Target("cpu")), exact
    )

    def errors(function):
        return [
            relative_error(ours.astype(jnp.float32), theirs)
            for ours, theirs in zip(
                value_and_gradients(function, coarse), expected, strict=True
            )
        ]

    kernel = errors(lambda q, k, v: tpu_attention.attend(q, k, v, visible, 2, True))
    plain = errors(lambda q, k, v: attend(q, k, v, 2, visible, Target("tpu")))
    assert max(kernel) < 0.01
    assert sum(kernel) < sum(plain)


@pytest.mark.parametrize("mask", [None, "row", "shared"])
def test_devices_share_the_sequences(mask, monkeypatch):
    """Breaks if a mask goes to other devices than its sequences."""
    interpreted = functools.partial(tpu_attention.attend, interpret=True)
    calls = []

    def counted(*arguments):
        calls.append(arguments[0].shape)
        return interpreted(*arguments)

    monkeypatch.setattr(attention.tpu_attention, "attend", counted)
    mesh = meshes.make_mesh(2, 2, devices=jax.devices()[:4])
    (q, k, v, _), visible = draw(8, 128, mask, jnp.bfloat16, batch=8)
    target = target_of(mesh)._replace(platform="tpu")
    actual = jax.jit(lambda *x: attend(*x, 2, visible, target))(q, k, v)
    assert calls == [(2, 8, 128)]
    expected = attend(q, k, v, 2, visible, Target("tpu"))
    wide = (x.astype(jnp.float32) for x in (actual, expected))
    assert relative_error(*wide) < 0.02


@pytest.mark.parametrize(
    "dtype, width, heads, batch",
    [
        (jnp.float32, 128, 2, 8),
        (jnp.bfloat16, 96, 2, 8),
        (jnp.bfloat16, 384, 2, 8),
        (jnp.bfloat16, 128, 2, 3),
    ],
)
def test_other_shapes_take_the_plain_form(dtype, width, heads, batch, monkeypatch):
    """Breaks if a program for one image, or in float32, calls the kernel."""
    monkeypatch.setattr(attention.tpu_attention, "attend", None)
    mesh = meshes.make_mesh(devices=jax.devices()[:4])
    (q, k, v, _), _ = draw(8, width, None, dtype, batch)
    target = target_of(mesh)._replace(platform="tpu")
    assert attend(q, k, v, heads, None, target).shape == q.shape


@pytest.fixture
def as_cudnn(monkeypatch):
    """Gives cuDNN's arguments to XLA, which means the same by them."""
    original, calls = jax.nn.dot_product_attention, []

    def instead(*arrays, implementation, **options):
        calls.append((implementation, arrays[0].shape))
        return original(*arrays, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", instead)
    return calls


@pytest.mark.parametrize("mask", [None, "row", "shared"])
def test_padding_for_cudnn_changes_nothing(mask, as_cudnn):
    """Breaks if a query attends to a token that fills up the row."""
    arrays, visible = draw(50, 128, mask)
    padded = value_and_gradients(
        lambda q, k, v: attention._cudnn(q, k, v, visible, 2), arrays
    )
    plain = value_and_gradients(
        lambda q, k, v: attend(q, k, v, 2, visible, Target("cpu")), arrays
    )
    assert as_cudnn == [("cudnn", (4, 56, 2, 64))]
    for actual, expected in zip(padded, plain, strict=True):
        assert relative_error(actual, expected) < 1e-5


@pytest.mark.parametrize(
    "kind, capability, dtype, heads, suits",
    [
        ("NVIDIA H100 80GB HBM3", "9.0", jnp.bfloat16, 2, True),
        ("NVIDIA A100-SXM4-40GB", "8.0", jnp.bfloat16, 2, True),
        ("Tesla V100 NVIDIA", "7.0", jnp.bfloat16, 2, False),
        ("AMD Instinct", "9.0", jnp.bfloat16, 2, False),
        ("NVIDIA H100 80GB HBM3", "9.0", jnp.float32, 2, False),
        ("NVIDIA H100 80GB HBM3", "9.0", jnp.bfloat16, 1, False),
        ("NVIDIA H100 80GB HBM3", "9.0", jnp.bfloat16, 64, False),
    ],
)
def test_cudnn_takes_bfloat16_of_recent_cards(kind, capability, dtype, heads, suits):
    """Breaks if float32, an older card or a head of 256 or 4 goes to cuDNN."""
    card = SimpleNamespace(device_kind=kind, compute_capability=capability)
    mesh = SimpleNamespace(devices=np.array([card], object))
    queries = jnp.zeros((2, 8, 256), dtype)
    target = attention.Target.__new__(Target, "gpu", mesh)
    assert attention._suits_cudnn(queries, heads, target) is suits


def test_cards_share_the_sequences(as_cudnn, monkeypatch):
    """Breaks if a card attends to the sequences of another."""
    monkeypatch.setattr(attention, "_suits_cudnn", lambda *arguments: True)
    mesh = meshes.make_mesh(2, 2, devices=jax.devices()[:4])
    (q, k, v, _), _ = draw(8, 128, None, batch=8)
    target = target_of(mesh)._replace(platform="gpu")
    actual = jax.jit(lambda *x: attend(*x, 2, None, target))(q, k, v)
    assert as_cudnn == [("cudnn", (2, 8, 2, 64))]
    assert relative_error(actual, attend(q, k, v, 2, None, Target("cpu"))) < 1e-5


def test_gradients_of_a_layer_norm_and_a_bias_are_those_of_the_plain_layers():
    """Breaks if the residual's own gradient is lost, or a mean goes over rows."""
    rng = np.random.default_rng(0)
    x, straight, turned = (
        jnp.asarray(rng.normal(1, 2, (3, 5, 16)), jnp.float32) for _ in range(3)
    )
    scale, bias = (jnp.asarray(rng.normal(1, 1, 16), jnp.float32) for _ in range(2))

    def plain(x, scale, bias):
        norm = LayerNorm().apply({"params": {"scale": scale, "bias": bias}}, x)
        return x, norm

    for ours, theirs, direction in (
        (forked_layer_norm, plain, (straight, turned)),
        (
            lambda x, scale, bias: add_bias(x * scale[None, None], bias),
            lambda x, scale, bias: x * scale[None, None] + bias[None, None],
            straight,
        ),
    ):
        results = []
        for function in (ours, theirs):
            values, pull = jax.vjp(function, x, scale, bias)
            results.append(jax.tree.leaves((values, pull(direction))))
        for actual, expected in zip(*results, strict=True):
            assert relative_error(actual, expected) < 1e-5
