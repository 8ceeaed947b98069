"""Batch normalisation against PyTorch's; the whole ResNet is in test_clip."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from vl_ltr_jax.models.resnet import BatchNorm
from worlds.clip_oracle import relative_error


def test_batch_norm_is_pytorchs():
    """Two training steps, then inference: outputs, statistics and gradients.

    Broken by a biased running variance (the batch has 12 entries a channel, so by
    1/12), by momentum 0.9, by gradients stopped at the batch's statistics.
    """
    rng = np.random.default_rng(0)
    theirs = torch.nn.BatchNorm2d(5)
    scale, bias = rng.standard_normal((2, 5)).astype(np.float32)
    params = {"scale": jnp.asarray(scale), "bias": jnp.asarray(bias)}
    theirs.weight.data, theirs.bias.data = map(torch.from_numpy, (scale, bias))
    stats = {"mean": jnp.zeros(5), "var": jnp.ones(5)}

    def total(params, x, stats, train):
        variables = {"params": params, "batch_stats": stats}
        norm = BatchNorm(5).bind(variables, mutable=["batch_stats"])
        if train:
            y = norm(x)
        else:
            factor, shift = norm.frozen()
            y = factor[None, None, None] * x + shift[None, None, None]
        updates = norm.variables
        return jnp.sum(jnp.sin(y)), (y, updates)

    gradient = jax.grad(total, argnums=(0, 1), has_aux=True)
    for train in (True, True, False):
        x = 3 + 2 * rng.standard_normal((3, 2, 2, 5)).astype(np.float32)
        theirs.train(train)
        theirs.zero_grad()
        torch_x = torch.from_numpy(x).permute(0, 3, 1, 2).requires_grad_()
        expected = theirs(torch_x)
        expected.sin().sum().backward()
        grads, (y, updates) = gradient(params, jnp.asarray(x), stats, train)
        stats = updates["batch_stats"]
        for ours, reference in (
            (y, expected.detach().permute(0, 2, 3, 1)),
            (stats["mean"], theirs.running_mean),
            (stats["var"], theirs.running_var),
            (grads[0]["scale"], theirs.weight.grad),
            (grads[0]["bias"], theirs.bias.grad),
            (grads[1], torch_x.grad.permute(0, 2, 3, 1)),
        ):
            assert relative_error(ours, reference) < 1e-5


@pytest.mark.parametrize("guess", [0.0, 2.9])
def test_bfloat16_has_the_moments_of_its_values(guess):
    """Breaks if squares cancel, or no gradient goes through the batch's statistics."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(3 + 0.2 * rng.standard_normal((8, 6, 6, 4)), jnp.bfloat16)
    direction = jnp.asarray(rng.standard_normal(x.shape), jnp.float32)
    params = {"scale": jnp.full(4, 1.5), "bias": jnp.full(4, 0.5)}
    stats = {"mean": jnp.full(4, guess), "var": jnp.ones(4)}

    def total(x):
        variables = {"params": params, "batch_stats": stats}
        norm = BatchNorm(4).bind(variables, mutable=["batch_stats"])
        y = norm(x).astype(jnp.float32)
        return jnp.sum(direction * y), (y, norm.variables["batch_stats"])

    gradient = jax.grad(total, has_aux=True)
    coarse, (y, after) = gradient(x)
    exact, (expected, expected_after) = gradient(x.astype(jnp.float32))
    assert relative_error(y, expected) < 2**-8
    assert relative_error(coarse.astype(jnp.float32), exact) < 0.01
    for name in ("mean", "var"):
        assert relative_error(after[name], expected_after[name]) < 1e-5
