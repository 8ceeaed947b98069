"""Classifiers made of finished features and weights, and the factors that LWS trains.

Features are given as towers leave them: of any length, none of them about the origin.
"""

import math
from fractions import Fraction
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
from vl_ltr_jax.systems import RECIPES, lws, tau_normalized
from vl_ltr_jax.systems.ncm import nearest_class_mean
from vl_ltr_jax.systems.tau_normalized import TAUS, choose_tau, normalized
from vl_ltr_jax.train import stage


def close(actual, expected):
    scale = max(np.abs(expected).max(), 1e-2)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * scale)


def drawn(seed, counts, dimension=16):
    """Features about a mean of each class, off the origin, of very unequal lengths."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    means = rng.normal(size=(len(counts), dimension))
    directions = means[labels] + rng.normal(size=(len(labels), dimension))
    lengths = np.exp(rng.normal(size=(len(labels), 1)))
    features = 3 * rng.normal(size=dimension) + lengths * directions
    return features.astype(np.float32), labels


def score(linear, features):
    arrays = {"kernel": jnp.asarray(linear.kernel), "bias": jnp.asarray(linear.bias)}
    if linear.centre is not None:
        arrays["centre"] = jnp.asarray(linear.centre)
    return np.asarray(scores(arrays, jnp.asarray(features)))


def unit_rows(features, centre):
    centred = features.astype(np.float64) - centre
    return centred / np.sqrt((centred**2).sum(1))[:, None]


COUNTS = [(20, 5, 1, 9), (1, 2), (3, 300), (40, 30, 20, 10, 5, 5, 2, 2, 1, 1)]


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("seed", range(3))
def test_ncm_is_scikit_learns_nearest_centroid(seed, counts):
    """Breaks when centre or lengths are left out, of the means or of an image."""
    features, labels = drawn(seed, counts)
    made = nearest_class_mean(features, labels, len(counts))
    centre = features.astype(np.float64).mean(0)
    around = np.random.default_rng(seed).normal(size=(300, features.shape[1]))
    others = (centre + around).astype(np.float32)
    theirs = NearestCentroid().fit(unit_rows(features, centre), labels)
    for images in (features, others):
        expected = theirs.predict(unit_rows(images, centre))
        np.testing.assert_array_equal(score(made, images).argmax(1), expected)
    close(made.centre, centre)
    close(made.kernel, 2 * theirs.centroids_.T)
    assert len(set(expected)) > 1


@pytest.mark.parametrize("counts", COUNTS)
def test_ncm_scores_are_negative_squared_distances(counts):
    """But for a constant of each row, |u|^2 = 1."""
    features, labels = drawn(7, counts)
    found = score(nearest_class_mean(features, labels, len(counts)), features)
    u = unit_rows(features, features.astype(np.float64).mean(0))
    means = np.array([u[labels == label].mean(0) for label in range(len(counts))])
    distances = ((u[:, None] - means[None]) ** 2).sum(2)
    close(found, 1 - distances)


def test_ncm_by_hand():
    """The mean of all four is (1, 1), that of the classes' means is not.

    Less it, and with length 1, class 0 has (1, 0), (-1, 0) and (0, 1), so a mean of
    (0, 1/3); class 1 has (0, -1). The scores of u are 2/3 u_y - 1/9 and -2 u_y - 1.
    """
    features = np.array([[3, 1], [-1, 1], [1, 4], [1, -2]], np.float32)
    made = nearest_class_mean(features, np.array([0, 0, 0, 1]), 2)
    np.testing.assert_array_equal(made.centre, [1, 1])
    close(made.kernel, np.array([[0, 0], [2 / 3, -2]]))
    close(made.bias, np.array([-1 / 9, -1]))
    images = np.array([[8, 1], [1, -90], [1, 3], [1, 1]], np.float32)
    expected = [[-1 / 9, -1], [-7 / 9, 1], [5 / 9, -3], [-1 / 9, -1]]
    close(score(made, images), np.array(expected))  # the last lies on the centre


def test_ncm_never_predicts_a_class_without_images():
    """Its mean would be the origin, nearer to many images than their own."""
    features, labels = drawn(0, (30, 0, 20, 25, 0))
    made = nearest_class_mean(features, labels, 6)  # three classes are empty
    for images in (features, -features, np.tile(made.centre, (2, 1))):
        found = score(made, images)
        assert not np.isnan(found).any()
        assert np.isneginf(found[:, [1, 4, 5]]).all()
        assert set(found.argmax(1)) <= {0, 2, 3}
    without = np.array([0, 0, 1, 2])[labels]  # 0, 2 and 3 in a row
    fewer = score(nearest_class_mean(features, without, 3), features)
    np.testing.assert_array_equal(score(made, features)[:, [0, 2, 3]], fewer)


def test_lengths_and_place_of_features_do_not_matter_to_ncm():
    """Images on one ray from the centre are alike, and no origin is special."""
    features, labels = drawn(3, (20, 10, 5))
    made = nearest_class_mean(features, labels, 3)
    outward = made.centre + 7 * (features - made.centre)
    close(score(made, outward), score(made, features))
    moved = nearest_class_mean(features + 5, labels, 3)
    close(score(moved, features + 5), score(made, features))


def test_scores_of_plain_weights():
    rng = np.random.default_rng(0)
    features, kernel = rng.normal(size=(6, 4)), rng.normal(size=(4, 3))
    bias = rng.normal(size=3)
    arrays = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
    found = scores(arrays, jnp.asarray(features))
    close(
        found,
        torch.nn.functional.linear(
            *map(torch.tensor, (features, kernel.T, bias))
        ).numpy(),
    )


def test_tau_from_the_weights_to_unit_weights():
    rng = np.random.default_rng(0)
    kernel = (rng.normal(size=(8, 5)) * [1e-3, 0.1, 1, 10, 1e3]).astype(np.float32)
    lengths = np.sqrt((kernel.astype(np.float64) ** 2).sum(0))
    np.testing.assert_array_equal(normalized(kernel, 0.0), kernel)
    found = normalized(kernel, 1.0)
    np.testing.assert_allclose(np.sqrt((found**2).sum(0)), 1, rtol=1e-6)
    for tau in TAUS:
        expected = kernel / lengths**tau
        np.testing.assert_allclose(normalized(kernel, tau), expected, rtol=1e-6)


def test_tau_by_hand():
    """Columns of length 5 and 4; with tau 1/2 the second is divided by 2."""
    kernel = np.array([[3, 0, 0], [4, 4, 0]], np.float32)
    close(normalized(kernel, 1.0), np.array([[0.6, 0, 0], [0.8, 1, 0]]))
    half = np.array([[3 / 5**0.5, 0, 0], [4 / 5**0.5, 2, 0]])
    close(normalized(kernel, 0.5), half)
    close(normalized(kernel, 2.0), np.array([[3 / 25, 0, 0], [4 / 25, 1 / 4, 0]]))


def test_the_grid_of_tau():
    np.testing.assert_allclose(TAUS, np.linspace(0, 2, 41), atol=1e-12)


def uneven():
    """Weights (4, 0) and (0, 1), and ten images of which one is of class 1.

    An image x is of class 0 where x_0 4^(1 - tau) >= x_1:
      six of class 0 at (3, 1): right up to 4^(1 - tau) = 1/3, so for tau < 1.79;
      three of class 0 at (1, 1.5): right for tau < 0.71;
      one of class 1 at (1, 1.2): right for tau > 0.87.
    By images, tau up to 0.7 is best (9 of 10; 7 of 10 from 0.9). By classes, tau from
    0.9 to 1.75 is (6/9 + 1) / 2; the others have (1 + 0) / 2 or less.
    """
    features = np.array([[3, 1]] * 6 + [[1, 1.5]] * 3 + [[1, 1.2]], np.float32)
    return np.array([[4, 0], [0, 1]], np.float32), features, np.array([0] * 9 + [1])


def test_tau_is_chosen_by_classes_not_by_images():
    """Breaks when the plain accuracy chooses (0.0), or the last of ties (1.75)."""
    kernel, features, labels = uneven()
    tau, accuracy = choose_tau(kernel, features, labels)
    assert tau == 0.9
    assert math.isclose(accuracy, 100 * (6 / 9 + 1) / 2, rel_tol=1e-12)
    # Of the last four, tau 0 has all of class 0 right and 0.9 all of class 1.
    assert choose_tau(kernel, features[6:], labels[6:]) == (0.0, 50.0)
    order = np.random.default_rng(0).permutation(10)
    assert choose_tau(kernel, features[order], labels[order])[0] == 0.9


@pytest.mark.parametrize("first", [1, 2, 8])
def test_the_smallest_of_equally_good_taus(first):
    """Breaks when a last digit decides: thirds of a class may sum to less than 1.

    Tau 0 has all of class 0 right, 0.9 all of class 1: a half each.
    """
    kernel, images = uneven()[0], np.array([[1, 1.5], [1, 1.2]], np.float32)
    for second in range(1, 60):
        for counts in ((first, second), (second, first)):
            labels = np.repeat([0, 1], counts)
            tau, accuracy = choose_tau(kernel, images[labels], labels)
            assert tau == 0.0
            assert math.isclose(accuracy, 50, rel_tol=1e-12)


def by_brute_force(kernel, features, labels):
    """Exact sums of hits, so that equal accuracies are equal."""
    best = (Fraction(-1), None)
    for tau in TAUS:
        weights = [w / np.linalg.norm(w) ** tau for w in kernel.astype(np.float64).T]
        predicted = [
            max(range(len(weights)), key=lambda c: weights[c] @ x)
            for x in features.astype(np.float64)
        ]
        hits = np.array(predicted) == labels
        present = sorted(set(labels.tolist()))
        mean = sum(
            Fraction(int(hits[labels == c].sum()), int((labels == c).sum()))
            for c in present
        ) / len(present)
        if mean > best[0]:
            best = mean, tau
    return best[1], 100 * float(best[0])


@pytest.mark.parametrize("seed", range(12))
def test_tau_agrees_with_brute_force(seed):
    """Classes of 0 to 11 validation images, and weights longer for the frequent."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 12, 6)
    features, labels = drawn(seed, counts, dimension=5)
    kernel = rng.normal(size=(5, 7)) * np.geomspace(8, 0.2, 7)
    found = choose_tau(kernel.astype(np.float32), features, labels)
    tau, accuracy = by_brute_force(kernel.astype(np.float32), features, labels)
    assert found[0] == tau
    assert math.isclose(found[1], accuracy, rel_tol=1e-9)


def test_tau_without_a_difference_is_0():
    kernel = np.eye(3, dtype=np.float32)
    features, labels = np.eye(3, dtype=np.float32)[[0, 1, 1]], np.array([0, 1, 0])
    assert choose_tau(kernel, features, labels) == (0.0, 75.0)
    with pytest.raises(ValueError, match="tau_normalized"):
        choose_tau(kernel, features[:0], labels[:0])


def finished(kernel, bias, **rebalance):
    """A run whose Baseline has these weights."""
    run = Mock(spec=Run, config=Config(rebalance=Rebalance(**rebalance)))
    run.inputs = Mock(num_classes=len(bias))
    run.finetuned.return_value = {
        "head": {"visual_fc": {"kernel": kernel, "bias": bias}}
    }
    return run


def test_tau_normalised_logits_have_no_bias(monkeypatch):
    kernel, features, labels = uneven()
    run = finished(kernel, np.array([5, -5], np.float32))

    def embedded(of, towers, split):
        assert (of, split) == (run, run.inputs.data.val)
        return features, labels

    monkeypatch.setattr(tau_normalized, "embed_split", embedded)
    made = RECIPES["tau_normalized"].make(run)
    np.testing.assert_array_equal(made.bias, [0, 0])
    assert made.summary["tau"] == 0.9 and made.centre is None
    expected = features * [4**0.1, 1]  # (4, 0) of length 4^(1 - 0.9)
    close(score(made, features), expected)


@pytest.mark.parametrize("tau", [0.0, 1.0, 1.5])
def test_post_hoc_adjustment_subtracts_tau_log_pi(tau):
    """With tau 1, e^score is the softmax's share divided by the prior."""
    rng = np.random.default_rng(1)
    kernel, bias = np.float32(rng.normal(size=(4, 3))), np.float32(rng.normal(size=3))
    run = finished(kernel, bias, logit_adjustment_tau=tau)
    run.inputs.data.train_counts = np.array([90, 9, 1])
    made = RECIPES["logit_adjustment_post_hoc"].make(run)
    features = np.float32(rng.normal(size=(5, 4)))
    logits = features.astype(np.float64) @ kernel + bias
    close(score(made, features), logits - tau * np.log([0.9, 0.09, 0.01]))


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


def test_lws_leaves_what_its_head_computes(monkeypatch):
    """Starts from the Baseline's FC and factors of 1, and trains the factors alone."""
    rng = np.random.default_rng(2)
    kernel, bias = np.float32(rng.normal(size=(4, 3))), np.float32(rng.normal(size=3))
    trained = np.array([0.5, 2.0, -1.0], np.float32)

    def job(run, head, params, trainable):
        np.testing.assert_array_equal(params["visual_scales"], [1, 1, 1])
        np.testing.assert_array_equal(params["visual_fc"]["kernel"], kernel)
        np.testing.assert_array_equal(params["visual_fc"]["bias"], bias)
        assert head == ScaledHead(3)
        assert trainable("head/visual_scales")
        for still in ("head/visual_fc/kernel", "head/visual_fc/bias"):
            assert not trainable(still)
        return made

    monkeypatch.setattr(lws, "job", job)
    made = Mock(spec=stage.Job)
    run, recipe = finished(kernel, bias), lws.Lws()
    assert recipe.job(run) is made
    monkeypatch.setattr(recipe, "trained", lambda run: {"visual_scales": trained})
    made = recipe.make(run)
    features = np.float32(rng.normal(size=(5, 4)))
    close(score(made, features), trained * (features @ kernel + bias))
    assert made.centre is None
