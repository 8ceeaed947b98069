"""The parts of the modified ResNet against PyTorch's; the whole is in test_clip."""

import jax
import jax.numpy as jnp
import numpy as np
import torch

from vl_ltr_jax.models.resnet import AttentionPool, BatchNorm, Bottleneck
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
        y, updates = BatchNorm().apply(
            {"params": params, "batch_stats": stats},
            x,
            train,
            mutable=["batch_stats"],
        )
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


def test_shortcut_is_projected_only_where_it_must_be():
    """OpenAI's module projects for a stride or a change of width."""
    for channels, stride, projected in ((16, 1, False), (16, 2, True), (8, 1, True)):
        shapes = jax.eval_shape(
            lambda x, stride=stride: Bottleneck(4, stride).init(
                jax.random.key(0), x, False
            ),
            jnp.zeros((1, 8, 8, channels)),
        )
        assert ("downsample_conv" in shapes["params"]) is projected


def test_attention_pool_is_pytorchs():
    """Broken by the mean left out of the keys or put last, or by positions unused."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 3, 8)).astype(np.float32)
    pool = AttentionPool(heads=2, embed_dim=6)
    variables = pool.init(jax.random.key(1), jnp.asarray(x))
    params = jax.tree.map(
        lambda p: rng.standard_normal(p.shape).astype(np.float32), variables["params"]
    )
    weight = {
        name: torch.from_numpy(params[name]["kernel"].T.copy())
        for name in ("q_proj", "k_proj", "v_proj", "c_proj")
    }
    bias = [torch.from_numpy(params[f"{name}_proj"]["bias"]) for name in "qkv"]
    flat = torch.from_numpy(x).reshape(2, 9, 8).transpose(0, 1)
    flat = torch.cat([flat.mean(0, keepdim=True), flat])
    flat = flat + torch.from_numpy(params["positional_embedding"])[:, None]
    expected, _ = torch.nn.functional.multi_head_attention_forward(
        flat[:1],
        flat,
        flat,
        8,
        2,
        None,
        torch.cat(bias),
        None,
        None,
        False,
        0.0,
        weight["c_proj"],
        torch.from_numpy(params["c_proj"]["bias"]),
        use_separate_proj_weight=True,
        q_proj_weight=weight["q_proj"],
        k_proj_weight=weight["k_proj"],
        v_proj_weight=weight["v_proj"],
    )
    ours = pool.apply({"params": params}, jnp.asarray(x))
    assert relative_error(ours, expected[0]) < 1e-5
