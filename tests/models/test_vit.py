"""The image transformer and its convolution, layer by layer against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from vl_ltr_jax.models.clip import Clip
from vl_ltr_jax.models.layers import Conv, ResidualBlock, attend
from vl_ltr_jax.models.port.clip_files import load_clip
from vl_ltr_jax.models.port.positions import interpolate_positions
from worlds.clip_oracle import (
    GOLDEN,
    hugging_face_batch,
    hugging_face_clip,
    relative_error,
)


def test_every_layer_is_hugging_faces(tmp_path):
    """Broken by GELU for QuickGELU, an epsilon of 1e-6 in any LayerNorm, patches read
    column by column, the class token put last."""
    model = hugging_face_clip()
    model.save_pretrained(tmp_path)
    images, _ = hugging_face_batch()
    with torch.no_grad():
        theirs = model.vision_model(
            pixel_values=torch.from_numpy(images).permute(0, 3, 1, 2),
            output_hidden_states=True,
        )
    config, variables = load_clip(tmp_path)
    ours, state = Clip(config).apply(
        variables,
        jnp.asarray(images),
        method="encode_image",
        capture_intermediates=lambda module, _: isinstance(module, ResidualBlock),
        mutable=["intermediates"],
    )
    layers = state["intermediates"]["visual"]
    assert len(layers) == config.vision.layers
    for layer, expected in enumerate(theirs.hidden_states[1:]):
        (output,) = layers[f"resblocks_{layer}"]["__call__"]
        assert relative_error(output, expected) < 1e-5
    with torch.no_grad():
        expected = model.visual_projection(theirs.pooler_output)
    assert relative_error(ours, expected) < 1e-5


@pytest.mark.parametrize(
    ("kernel_size", "stride"), [(1, 1), (3, 1), (3, 2), (4, 4), (5, 1)]
)
def test_conv_is_pytorchs(kernel_size, stride):
    """Value and weight gradient. Broken by a patch flattened with channels first."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 8, 12, 5), dtype=np.float32)
    weight = rng.standard_normal((7, 5, kernel_size, kernel_size), dtype=np.float32)
    torch_weight = torch.from_numpy(weight).requires_grad_()
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(x).permute(0, 3, 1, 2),
        torch_weight,
        stride=stride,
        padding=0 if stride == kernel_size else kernel_size // 2,
    ).permute(0, 2, 3, 1)
    expected.square().sum().backward()
    conv = Conv(7, kernel_size, stride)
    kernel = jnp.asarray(weight.transpose(2, 3, 1, 0))

    def total(kernel):
        y = conv.apply({"params": {"kernel": kernel}}, jnp.asarray(x))
        return jnp.sum(y**2), y

    gradient, ours = jax.grad(total, has_aux=True)(kernel)
    assert relative_error(ours, expected.detach()) < 1e-5
    assert relative_error(gradient.transpose(3, 2, 0, 1), torch_weight.grad) < 1e-5


def test_attention_is_pytorchs():
    """Broken by the scale put after the mask, or heads cut across positions."""
    rng = np.random.default_rng(0)
    queries, keys, values = rng.standard_normal((3, 2, 6, 12), dtype=np.float32)
    visible = np.tril(np.ones((1, 1, 6, 6), bool))
    heads = [
        torch.from_numpy(x).reshape(2, 6, 3, 4).transpose(1, 2)
        for x in (queries, keys, values)
    ]
    for mask in (None, visible):
        theirs = torch.nn.functional.scaled_dot_product_attention(
            *heads, attn_mask=None if mask is None else torch.from_numpy(mask)
        )
        ours = attend(
            *map(jnp.asarray, (queries, keys, values)),
            3,
            None if mask is None else jnp.asarray(mask),
        )
        assert relative_error(ours, theirs.transpose(1, 2).reshape(2, 6, 12)) < 1e-5


@pytest.mark.parametrize("case", ["c0", "c1", "c2"])
def test_positions_are_resized_as_the_authors_do(case):
    """Broken by a = -0.5, by aligned corners, by antialiasing (c2 shrinks)."""
    golden = np.load(GOLDEN / "posembed" / "posembed.npz")
    positions = golden[f"{case}/input"]
    new_grid = int(golden[f"{case}/new_grid"])
    ours = interpolate_positions(positions, new_grid)
    assert ours.dtype == np.float32
    assert relative_error(ours, golden[f"{case}/output"]) < 1e-6


def test_positions_of_the_same_grid_stay():
    positions = np.random.default_rng(0).standard_normal((17, 3)).astype(np.float32)
    np.testing.assert_allclose(interpolate_positions(positions, 4), positions)
