"""Mixup and CutMix: the authors' pixels and targets, and what is drawn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vl_ltr_jax.method import losses, mixup
from worlds.golden import load

ARRAYS, BATCHES = load("mixup/mixup.npz"), load("mixup/mixup.json")


@pytest.mark.parametrize("case", ["target0", "target1", "target2"])
def test_targets_match_vl_ltr(case):
    """Breaks when smoothing follows mixing with another share, or the reverse weights;
    both for class labels and for a matrix of positives."""
    get = {name: ARRAYS[f"{case}/{name}"] for name in ("labels", "lam", "smoothing")}
    weight = jnp.full((1, 1), get["lam"], jnp.float32)
    targets = losses.one_hot_smooth(
        jnp.asarray(get["labels"], jnp.int32),
        int(ARRAYS[f"{case}/num_classes"]),
        float(get["smoothing"]),
    )
    mixed = mixup.blend(targets, weight)
    np.testing.assert_allclose(mixed, ARRAYS[f"{case}/output"], atol=1e-6)
    matrix = jnp.asarray(ARRAYS[f"{case}/matrix"])
    smoothing = float(get["smoothing"])
    mixed = mixup.blend(matrix * (1 - smoothing) + smoothing / len(matrix), weight)
    np.testing.assert_allclose(mixed, ARRAYS[f"{case}/matrix_output"], atol=1e-6)


def test_boxes_match_vl_ltr():
    """Breaks when the box is rounded, not truncated, or the clipped share is kept."""
    for row in ARRAYS["boxes"]:
        height, width = int(row[0]), int(row[1])
        y, x = (jnp.array([int(value)]) for value in row[2:4])
        lam = jnp.array([row[4]], jnp.float32)
        box, share = mixup.cutmix_box(height, width, lam, y, x)
        np.testing.assert_array_equal(box[0], row[5:9])
        np.testing.assert_allclose(share[0], row[9], rtol=1e-5)


def per_example(case, batch_size):
    """Weight and method of each example, in the modes batch, pair and elem."""
    name, mode = case["case"], case["mode"]
    if mode == "batch":
        return np.full(batch_size, case["lam"]), np.full(batch_size, case["use_cutmix"])
    lam, cut = ARRAYS[f"{name}/lam_elem"], ARRAYS[f"{name}/use_cutmix_elem"]
    if mode == "pair":
        return np.concatenate([lam, lam[::-1]]), np.concatenate([cut, cut[::-1]])
    return lam, cut


def centers(case, lam, cut, height, width):
    """Centres that give the recorded boxes, found by trying every pixel."""
    boxes = ARRAYS[f"{case['case']}/boxes_yl_yh_xl_xh_lam"][:, :4].astype(int)
    grid = np.stack(np.meshgrid(range(height), range(width), indexing="ij"), -1)
    grid = jnp.asarray(grid.reshape(-1, 2))
    result, recorded = np.zeros((len(lam), 2), np.int32), iter(boxes)
    last = {"batch": 1, "pair": len(lam) // 2, "elem": len(lam)}[case["mode"]]
    for i in np.flatnonzero(cut[:last]):
        weight = jnp.full(len(grid), lam[i], jnp.float32)
        edges, _ = mixup.cutmix_box(height, width, weight, *grid.T)
        matches = np.all(edges == next(recorded)[None], axis=1)
        result[i] = grid[int(np.flatnonzero(matches)[0])]
    if case["mode"] == "pair":
        result[last:] = result[:last][::-1]
    return np.broadcast_to(result[:1], result.shape) if last == 1 else result


@pytest.mark.parametrize("case", BATCHES, ids=lambda case: case["case"])
def test_batches_match_vl_ltr(case):
    """Breaks when the partner is not B - 1 - i, or the box is taken from the image."""
    name = case["case"]
    images = jnp.asarray(ARRAYS[f"{name}/x"].transpose(0, 2, 3, 1))
    lam, cut = per_example(case, len(images))
    center_y, center_x = jnp.asarray(centers(case, lam, cut, *images.shape[1:3])).T
    weights, lam = mixup.pixel_weights(
        *images.shape[1:3],
        jnp.asarray(lam, jnp.float32),
        jnp.asarray(cut),
        center_y,
        center_x,
    )
    mixed = mixup.blend(images, weights[..., None])
    expected = ARRAYS[f"{name}/x_out"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(mixed, expected, atol=1e-6)
    labels = jnp.asarray(ARRAYS[f"{name}/labels"], jnp.int32)
    targets = losses.one_hot_smooth(labels, 7, case["label_smoothing"])
    targets = mixup.blend(targets, lam[:, None])
    np.testing.assert_allclose(targets, ARRAYS[f"{name}/target_out"], atol=1e-6)


@functools.cache
def mixer(mixup_alpha, cutmix_alpha):
    """Mixes images that hold their own index, so that shares can be read off."""
    images = jnp.broadcast_to(jnp.arange(4.0)[:, None, None, None], (4, 10, 12, 3))

    def mix(seed):
        return mixup.mix(
            jax.random.key(seed),
            images,
            jnp.arange(4),
            4,
            mixup_alpha=mixup_alpha,
            cutmix_alpha=cutmix_alpha,
            label_smoothing=0.0,
        )

    return jax.jit(mix)


@pytest.mark.parametrize("alphas", [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_targets_follow_the_pixels(alphas):
    """The target's weight is the image's share of pixels, for every drawn method."""
    for seed in range(8):
        mixed, targets = mixer(*alphas)(seed)
        np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
        share = np.asarray(mixed, np.float64).mean((1, 2, 3))
        np.testing.assert_allclose(share, targets @ jnp.arange(4.0), atol=1e-5)


def test_both_methods_are_drawn():
    """CutMix does not blend pixels, mixup does; the switch draws both."""
    unmixed = []
    for seed in range(20):
        mixed, _ = mixer(0.8, 1.0)(seed)
        unmixed.append(bool(np.isin(mixed, np.arange(4)).all()))
    assert 0.2 < np.mean(unmixed) < 0.8


def test_zero_alphas_leave_the_batch_alone():
    mixed, targets = mixer(0.0, 0.0)(0)
    np.testing.assert_array_equal(mixed[:, 0, 0, 0], np.arange(4))
    np.testing.assert_array_equal(targets, np.eye(4))
