"""Classifiers made of finished features and weights, and the heads that start them.

Features are as towers leave them: of any length, and off the origin.
"""

import math
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestCentroid

from vl_ltr_jax.config.settings import Config, Rebalance
from vl_ltr_jax.models.linear import LinearHead, ScaledHead, draw_as_torch, scores
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.systems import RECIPES, tau_normalized
from vl_ltr_jax.systems.ncm import nearest_class_mean
from vl_ltr_jax.systems.tau_normalized import TAUS, choose_tau, normalized
from worlds.golden import close


def draw(seed, counts):
    """Returns features about a mean of each class, off the origin, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    means = rng.normal(size=(len(counts), 16))
    directions = means[labels] + rng.normal(size=(len(labels), 16))
    lengths = np.exp(rng.normal(size=(len(labels), 1)))
    features = 3 * rng.normal(size=16) + lengths * directions
    return features.astype(np.float32), labels


def score(linear, features):
    arrays = {"kernel": jnp.asarray(linear.kernel), "bias": jnp.asarray(linear.bias)}
    if linear.centre is not None:
        arrays["centre"] = jnp.asarray(linear.centre)
    return np.asarray(scores(arrays, jnp.asarray(features)))


def unit_rows(features, centre):
    centred = features.astype(np.float64) - centre
    return centred / np.sqrt((centred**2).sum(1))[:, None]


@pytest.mark.parametrize("counts", [(20, 5, 1, 9), (1, 2), (3, 300)])
def test_ncm_is_scikit_learns_nearest_centroid(counts):
    """Breaks when centre or lengths are left out, of the means or of an image."""
    features, labels = draw(0, counts)
    ncm = nearest_class_mean(features, labels, len(counts))
    centre = features.astype(np.float64).mean(0)
    around = np.random.default_rng(0).normal(size=(300, features.shape[1]))
    oracle = NearestCentroid().fit(unit_rows(features, centre), labels)
    for images in (features, (centre + around).astype(np.float32)):
        expected = oracle.predict(unit_rows(images, centre))
        np.testing.assert_array_equal(score(ncm, images).argmax(1), expected)
    close(ncm.centre, centre)
    close(ncm.kernel, 2 * oracle.centroids_.T)
    assert len(set(expected)) > 1


def test_ncm_by_hand():
    """The mean of all four is (1, 1), that of the classes' means is not.

    Less it, and with length 1, class 0 has (1, 0), (-1, 0) and (0, 1), so a mean of
    (0, 1/3); class 1 has (0, -1). The scores of u are 2/3 u_y - 1/9 and -2 u_y - 1.
    """
    features = np.array([[3, 1], [-1, 1], [1, 4], [1, -2]], np.float32)
    ncm = nearest_class_mean(features, np.array([0, 0, 0, 1]), 2)
    np.testing.assert_array_equal(ncm.centre, [1, 1])
    close(ncm.kernel, np.array([[0, 0], [2 / 3, -2]]))
    close(ncm.bias, np.array([-1 / 9, -1]))
    images = np.array([[8, 1], [1, -90], [1, 3], [1, 1]], np.float32)
    expected = [[-1 / 9, -1], [-7 / 9, 1], [5 / 9, -3], [-1 / 9, -1]]
    close(score(ncm, images), np.array(expected))  # the last lies on the centre


def test_ncm_never_predicts_a_class_without_images():
    """Its mean would be the origin, nearer to many images than their own."""
    features, labels = draw(0, (30, 0, 20, 25, 0))
    ncm = nearest_class_mean(features, labels, 6)  # three classes are empty
    for images in (features, -features, np.tile(ncm.centre, (2, 1))):
        actual = score(ncm, images)
        assert not np.isnan(actual).any()
        assert np.isneginf(actual[:, [1, 4, 5]]).all()
        assert set(actual.argmax(1)) <= {0, 2, 3}
    without = np.array([0, 0, 1, 2])[labels]  # 0, 2 and 3 in a row
    fewer = score(nearest_class_mean(features, without, 3), features)
    np.testing.assert_array_equal(score(ncm, features)[:, [0, 2, 3]], fewer)


def test_tau_from_the_weights_to_unit_weights():
    rng = np.random.default_rng(0)
    kernel = (rng.normal(size=(8, 5)) * [1e-3, 0.1, 1, 10, 1e3]).astype(np.float32)
    lengths = np.sqrt((kernel.astype(np.float64) ** 2).sum(0))
    np.testing.assert_allclose(TAUS, np.linspace(0, 2, 41), atol=1e-12)
    for tau in TAUS:
        expected = kernel / lengths**tau
        np.testing.assert_allclose(normalized(kernel, tau), expected, rtol=1e-6)


# An image x is of class 0 where x_0 4^(1 - tau) >= x_1, else of class 2.
KERNEL = np.array([[4, -1, 0], [0, -1, 1]], np.float32)


def test_tau_is_chosen_by_classes_not_by_images():
    """Breaks when the plain accuracy chooses (0.0), or the last of ties (1.75).

    Breaks when class 1, without an image, counts.

    Six of class 0 at (3, 1): right for tau < 1.79; three of class 0 at (1, 1.5): right
    for tau < 0.71; one of class 2 at (1, 1.2): right for tau > 0.87. By images, tau up
    to 0.7 is best (9 of 10). By classes, tau from 0.9 to 1.75 is (6/9 + 1) / 2.
    """
    features = np.array([[3, 1]] * 6 + [[1, 1.5]] * 3 + [[1, 1.2]], np.float32)
    labels = np.array([0] * 9 + [2])
    tau, accuracy = choose_tau(KERNEL, features, labels)
    assert tau == 0.9
    assert math.isclose(accuracy, 100 * (6 / 9 + 1) / 2, rel_tol=1e-12)
    with pytest.raises(ValueError, match="tau_normalized"):
        choose_tau(KERNEL, features[:0], labels[:0])


@pytest.mark.parametrize("first", [1, 2, 8])
def test_the_smallest_of_equally_good_taus(first):
    """Breaks when a last digit decides: thirds of a class may sum to less than 1.

    Tau 0 has all of class 0 right, 0.9 all of class 2: a half each.
    """
    images = np.array([[1, 1.5], [1, 1.2]], np.float32)
    for second in range(1, 60):
        for counts in ((first, second), (second, first)):
            labels = np.repeat([0, 1], counts)
            tau, accuracy = choose_tau(KERNEL, images[labels], 2 * labels)
            assert tau == 0.0
            assert math.isclose(accuracy, 50, rel_tol=1e-12)


def finished(kernel, bias, **rebalance):
    """Returns a run whose Baseline has these weights."""
    run = Mock(spec=Run, config=Config(rebalance=Rebalance(**rebalance)))
    run.inputs = Mock(num_classes=len(bias))
    head = {"visual_fc": {"kernel": kernel, "bias": bias}}
    run.finetuned.return_value = {"head": head}
    return run


def test_tau_normalised_logits_have_no_bias(monkeypatch):
    run = finished(KERNEL, np.array([5, -5, 5], np.float32))
    val = np.array([[3, 1], [1, 1.2]], np.float32), np.array([0, 2])

    def embed(this, towers, split):
        assert (this, split) == (run, run.inputs.data.val)
        return val

    monkeypatch.setattr(tau_normalized, "embed_split", embed)
    classifier = RECIPES["tau_normalized"].make(run)
    assert classifier.summary["tau"] == 0.9 and classifier.centre is None
    # (4, 0) gets the length 4^(1 - 0.9).
    close(score(classifier, val[0])[:, ::2], val[0] * [4**0.1, 1])


@pytest.mark.parametrize("tau", [0.0, 1.0, 1.5])
def test_post_hoc_adjustment_subtracts_tau_log_pi(tau):
    """With tau 1, e^score is the softmax's share divided by the prior."""
    rng = np.random.default_rng(1)
    kernel, bias = np.float32(rng.normal(size=(4, 3))), np.float32(rng.normal(size=3))
    run = finished(kernel, bias, logit_adjustment_tau=tau)
    run.inputs.data.train_counts = np.array([90, 9, 1])
    classifier = RECIPES["logit_adjustment_post_hoc"].make(run)
    features = np.float32(rng.normal(size=(5, 4)))
    logits = features.astype(np.float64) @ kernel + bias
    close(score(classifier, features), logits - tau * np.log([0.9, 0.09, 0.01]))


def test_scaled_head_is_a_scaled_linear_layer_of_pytorch():
    """Breaks when the bias is not scaled: values, and every gradient."""
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(6, 4)), rng.normal(size=(4, 3))
    bias, scales, out = rng.normal(size=3), rng.normal(size=3), rng.normal(size=(6, 3))
    params = {"visual_fc": {"kernel": weight, "bias": bias}, "visual_scales": scales}
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)

    def ours(params):
        logits = ScaledHead(3).apply({"params": params}, jnp.asarray(x, jnp.float32))
        return jnp.sum(logits * out), logits

    gradients, logits = jax.grad(ours, has_aux=True)(params)
    layer = torch.nn.Linear(4, 3, dtype=torch.float64)
    factors = torch.tensor(scales, requires_grad=True)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight.T))
        layer.bias.copy_(torch.tensor(bias))
    expected = factors * layer(torch.tensor(x))
    (expected * torch.tensor(out)).sum().backward()
    close(logits, expected.detach().numpy())
    close(gradients["visual_scales"], factors.grad.numpy())
    close(gradients["visual_fc"]["kernel"], layer.weight.grad.numpy().T)
    close(gradients["visual_fc"]["bias"], layer.bias.grad.numpy())
    drawn_scales = ScaledHead(3).init(jax.random.key(0), jnp.zeros((1, 4)))
    np.testing.assert_array_equal(drawn_scales["params"]["visual_scales"], [1, 1, 1])


@pytest.mark.parametrize(("width", "num_classes"), [(64, 2000), (512, 300), (1, 4000)])
def test_a_fresh_classifier_is_drawn_as_by_torch(width, num_classes):
    """Breaks with Flax's normal weights or zero biases, or with bounds by C."""
    params = draw_as_torch(jax.random.key(0), width, num_classes)["visual_fc"]
    torch.manual_seed(0)
    layer = torch.nn.Linear(width, num_classes)
    theirs = {"kernel": layer.weight.detach().numpy().T, "bias": layer.bias.detach()}
    bound = width**-0.5
    for name, expected in theirs.items():
        ours = np.asarray(params[name])
        assert ours.shape == tuple(expected.shape) and ours.dtype == np.float32
        assert 0.99 * bound < np.abs(ours).max() <= bound
        noise = bound * ours.size**-0.5
        assert abs(ours.mean()) < 4 * noise
        assert abs((ours**2).mean() - bound**2 / 3) < 4 * bound * noise
        quantiles = np.linspace(0, 1, 11)
        np.testing.assert_allclose(
            np.quantile(ours, quantiles),
            np.quantile(np.asarray(expected), quantiles),
            atol=4 * noise,
        )
    expected = LinearHead(num_classes).init(jax.random.key(0), jnp.zeros((1, width)))
    assert jax.tree.map(jnp.shape, expected["params"]) == {
        "visual_fc": {"kernel": (width, num_classes), "bias": (num_classes,)}
    }
