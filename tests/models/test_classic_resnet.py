"""ResNets and ResNeXts against torchvision's code and its golden numbers."""

import re
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import torchvision
from safetensors.numpy import load_file

from vl_ltr_jax.models.classic_resnet import ResNet, basic_blocks, bottlenecks
from vl_ltr_jax.models.port.names import (
    TORCHVISION,
    from_tensors,
    tensor_shapes,
    to_tensors,
)
from worlds.clip_oracle import relative_error
from worlds.golden import GOLDEN

TINY = {
    "resnet": bottlenecks((1, 2, 1, 1), planes=(4, 8, 8, 8)),
    "resnext": bottlenecks((2, 1, 1, 1), planes=(4, 8, 8, 8), groups=2, group_width=32),
    "basic": basic_blocks((1, 1, 1, 1), planes=(4, 8, 8, 8)),
}
FULL = {
    "resnet50": bottlenecks((3, 4, 6, 3)),
    "resnext50_32x4d": bottlenecks((3, 4, 6, 3), groups=32, group_width=4),
}


def variables_of(model, tensors, side):
    """Returns the variables of a tower from torchvision's tensors."""
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    shapes = jax.eval_shape(
        model.init, jax.eval_shape(lambda: jax.random.key(0)), images
    )
    wrapped = {name: {"visual": tree} for name, tree in shapes.items()}
    tower = {k: v for k, v in tensors.items() if not k.startswith("fc.")}
    loaded = from_tensors(tower, wrapped, TORCHVISION, "the state dict")
    return {name: tree["visual"] for name, tree in loaded.items()}


def torch_names(variables):
    """Returns variables as tensors under torchvision's names."""
    return to_tensors({n: {"visual": t} for n, t in variables.items()}, TORCHVISION)


@pytest.mark.parametrize("name", TINY)
def test_tiny_networks_are_torchvisions(name):
    """Features, loss, every gradient and every running statistic.

    Broken by a stride on the first 1 x 1 convolution, by groups left out, by an
    average over padded maxima, by a biased running variance.
    """
    arrays = np.load(GOLDEN / "backbones" / "tiny.npz")
    tensors = load_file(GOLDEN / "backbones" / f"tiny_{name}.safetensors")
    model = ResNet(TINY[name], stem=8)
    variables = variables_of(model, tensors, 64)
    images = jnp.asarray(arrays[f"{name}/images"].transpose(0, 2, 3, 1))
    weight, bias = tensors["fc.weight"], tensors["fc.bias"]

    features = model.apply(variables, images)
    expected = arrays[f"{name}/f32/eval/avgpool"][..., 0, 0]
    assert relative_error(features, expected) < 1e-5
    logits = features @ weight.T + bias[None]
    assert relative_error(logits, arrays[f"{name}/f32/eval/logits"]) < 1e-5

    def loss(params, head):
        features, updates = model.apply(
            {**variables, "params": params}, images, train=True, mutable="batch_stats"
        )
        logits = features @ head[0].T + head[1][None]
        labels = jnp.asarray(arrays[f"{name}/labels"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), updates

    head = (jnp.asarray(weight), jnp.asarray(bias))
    (value, updates), grads = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(
        variables["params"], head
    )
    assert relative_error(value, arrays[f"{name}/f32/train/loss"]) < 1e-5
    ours = torch_names({"params": grads[0]})
    ours |= {"fc.weight": grads[1][0], "fc.bias": grads[1][1]}
    prefix = f"{name}/f64/train/grad/"
    expected = {key.removeprefix(prefix): key for key in arrays if prefix in key}
    assert ours.keys() == expected.keys()
    largest = max(np.abs(arrays[key]).max() for key in expected.values())
    for key, array in ours.items():
        error = np.abs(array - arrays[expected[key]]).max()
        assert error < 1e-4 * largest, key
    prefix = f"{name}/f32/train/stats_after/"
    after = torch_names(updates)
    for key in (key for key in arrays if prefix in key):
        assert relative_error(after[key.removeprefix(prefix)], arrays[key]) < 1e-5


@pytest.mark.parametrize("name", FULL)
def test_full_networks_are_torchvisions(name):
    """Features by frozen and by batch statistics, at 64 pixels.

    Broken by a width of 4 groups, by a stride on the wrong convolution.
    """
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)(weights=None)
    theirs.fc = torch.nn.Identity()
    model = ResNet(FULL[name])
    state = {k: v.numpy().copy() for k, v in theirs.state_dict().items()}
    variables = variables_of(model, state, 64)
    images = torch.randn(4, 3, 64, 64)
    ours = jnp.asarray(images.permute(0, 2, 3, 1).numpy())
    for train in (False, True):
        theirs.train(train)
        with torch.no_grad():
            expected = theirs(images)
        features, updates = model.apply(
            variables, ours, train=train, mutable="batch_stats"
        )
        assert relative_error(features, expected) < 1e-4
    after = {k: v.numpy() for k, v in theirs.state_dict().items()}
    for key, array in torch_names(updates).items():
        assert relative_error(array, after[key]) < 1e-4


def by_rule(name, shape, seed=31001):
    """Returns a tensor or images that the golden numbers of BBN were made with."""
    rng = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)
    draw = rng.standard_normal(shape)
    if name.startswith("images"):
        return draw.astype(np.float32)
    if name.endswith("running_var"):
        draw = 1 + 0.2 * np.abs(draw)
    elif len(shape) == 4:
        draw = draw / np.sqrt(np.prod(shape[1:]))
    elif re.search(r"bn\d\.weight$", name):
        draw = 1 + 0.1 * draw
    else:
        draw = 0.1 * draw
    return draw.astype(np.float32)


@pytest.mark.parametrize("branch", ["cb", "rb"])
def test_small_networks_are_those_of_bbn(branch):
    """A ResNet-32 whose last block is one of BBN's branches.

    Broken by channels added on one side of a shortcut, by a pool after the stem.
    """
    sizes = basic_blocks((5, 5, 5), planes=(16, 32, 64))
    model = ResNet(sizes, stem=16, is_small=True)
    images = by_rule("images_cb", (4, 3, 32, 32)).transpose(0, 2, 3, 1)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.asarray(images))
    wrapped = {name: {"visual": tree} for name, tree in shapes.items()}
    tensors = {
        name: by_rule(f"backbone.{name}".replace("layer3.4", f"{branch}_block"), shape)
        for name, shape in tensor_shapes(wrapped, TORCHVISION).items()
    }
    features = model.apply(variables_of(model, tensors, 32), jnp.asarray(images))
    expected = np.load(GOLDEN / "bbn" / "net_small.npz")[f"feature_{branch}"]
    assert relative_error(features, expected) < 1e-4
