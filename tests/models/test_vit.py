"""The convolution against PyTorch's, and positions of another image size.

`port/test_hugging_face.py` compares the layers of the tower.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from vl_ltr_jax.models.layers import Conv
from vl_ltr_jax.models.port.positions import interpolate_positions
from worlds import golden
from worlds.clip_oracle import relative_error


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


@pytest.mark.parametrize("case", ["c0", "c1", "c2"])
def test_positions_are_resized_as_the_authors_do(case):
    """Broken by a = -0.5, by aligned corners, by antialiasing (c2 shrinks)."""
    arrays = golden.load("posembed/posembed.npz")
    new_grid = int(arrays[f"{case}/new_grid"])
    ours = interpolate_positions(arrays[f"{case}/input"], new_grid)
    assert ours.dtype == np.float32
    golden.close(ours, arrays[f"{case}/output"], 1e-6)


def test_positions_of_the_same_grid_stay():
    positions = np.random.default_rng(0).standard_normal((17, 3)).astype(np.float32)
    np.testing.assert_allclose(interpolate_positions(positions, 4), positions)
