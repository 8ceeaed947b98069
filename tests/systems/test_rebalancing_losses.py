"""Losses that know the training counts, against their papers' formulas and PyTorch."""

import json
import math
from decimal import Decimal, localcontext
from pathlib import Path
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vl_ltr_jax.config.settings import Config, Rebalance
from vl_ltr_jax.models.linear import CosineHead, LinearHead
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.systems import RECIPES
from vl_ltr_jax.systems.class_counts import effective_number_weights, log_priors
from vl_ltr_jax.systems.ldam_drw import first_deferred_step, ldam_margins

GOLDEN = Path(__file__).parents[1] / "golden" / "class_counts"
REAL = {
    name: np.array(json.loads((GOLDEN / f"{name}.json").read_text()))
    for name in ("imagenet_lt", "places_lt", "inat18")
}
LOSSES = ("cb_focal", "ldam_drw", "balanced_softmax", "logit_adjustment")
SHAPES = [(1, 2), (7, 5), (16, 40)]  # images, classes
CASES = pytest.mark.parametrize(("batch", "classes"), SHAPES)
SEEDS = pytest.mark.parametrize("seed", range(3))
SPREADS = pytest.mark.parametrize("spread", ["usual", "large"])


def close(actual, expected):
    scale = max(np.abs(expected).max(), 1e-2)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * scale)


def made(name, counts, num_steps=100, **options):
    config = Config(method=name, rebalance=Rebalance(**options))
    return RECIPES[name].make_loss(config, np.asarray(counts), num_steps)


def drawn(seed, batch, classes, spread="usual"):
    """Logits, labels, and counts of which one is 1 and one 100000."""
    rng = np.random.default_rng((seed, batch, classes))
    logits = rng.normal(size=(batch, classes)) * 2
    if spread == "large":
        logits = rng.choice([-60.0, 60.0], size=logits.shape)
    counts = np.exp(rng.uniform(0, math.log(1e5), classes)).astype(int)
    counts[rng.permutation(classes)[:2]] = 1, 100_000
    return logits.astype(np.float32), rng.integers(0, classes, batch), counts


def one_hot(labels, classes):
    return np.eye(classes, dtype=np.float32)[labels]


def ours(loss, logits, targets, step=0):
    """Value and gradient in float32."""

    def of_logits(z):
        return loss(z, jnp.asarray(targets, jnp.float32), jnp.int32(step))

    value, gradient = jax.value_and_grad(of_logits)(jnp.asarray(logits, jnp.float32))
    assert np.isfinite(value) and np.isfinite(gradient).all()
    return value, gradient


def theirs(function, logits):
    """Value and gradient of PyTorch in float64."""
    z = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    value = function(z)
    value.backward()
    return value.item(), z.grad.numpy()


def agree(found, expected):
    for actual, wanted in zip(found, expected, strict=True):
        close(actual, wanted)


def effective_numbers(counts, beta):
    """(1 - beta) / (1 - beta^n), which sum to C; with 40 digits."""
    with localcontext() as context:
        context.prec = 40
        exact = Decimal(beta)
        weights = [(1 - exact) / (1 - exact ** int(n)) for n in counts]
        total = sum(weights)
        return np.array([float(w * len(weights) / total) for w in weights])


@pytest.mark.parametrize("beta", [0.5, 0.9, 0.999, 0.9999, 0.999999])
def test_effective_numbers_keep_their_digits(beta):
    """Breaks when 1 - beta^n is taken in float64 (1e-10 off with the last beta)."""
    counts = np.array([1, 2, 3, 17, 1000, 31_415, 100_000, 500_000])
    weights = effective_number_weights(counts, beta)
    np.testing.assert_allclose(weights, effective_numbers(counts, beta), rtol=2e-14)
    assert math.isclose(weights.sum(), len(counts), rel_tol=1e-14)


def test_effective_numbers_by_hand():
    """beta 1/2: 0.5 / (1 - 0.5) = 1 and 0.5 / (1 - 0.25) = 2/3; times 2 / (5/3)."""
    weights = effective_number_weights(np.array([1, 2]), 0.5)
    np.testing.assert_allclose(weights, [6 / 5, 4 / 5], rtol=1e-15)
    alike = effective_number_weights(np.array([1, 2, 500_000]), 0.0)
    np.testing.assert_array_equal(alike, [1, 1, 1])


@pytest.mark.parametrize("name", REAL)
def test_what_is_made_of_the_counts_of_a_benchmark(name):
    counts = REAL[name]
    for beta in (0.999, 0.9999):
        weights = effective_number_weights(counts, beta)
        np.testing.assert_allclose(weights, effective_numbers(counts, beta), rtol=1e-13)
    priors = np.exp(log_priors(counts))
    np.testing.assert_allclose(priors, counts / counts.sum(), rtol=1e-12)
    assert math.isclose(priors.sum(), 1, rel_tol=1e-12)
    margins = ldam_margins(counts, 0.5)
    assert np.float32(margins.max()) == 0.5
    expected = 0.5 * (counts.min() / counts) ** 0.25
    np.testing.assert_allclose(margins, expected, rtol=1e-14)


def test_margins_by_hand():
    """1, 16 and 81 to the power of -1/4 are 1, 1/2 and 1/3; the largest becomes 1/2."""
    margins = ldam_margins(np.array([16, 1, 81]), 0.5)
    np.testing.assert_allclose(margins, [1 / 4, 1 / 2, 1 / 6], rtol=1e-15)
    rarest_of_four = ldam_margins(np.array([16, 16, 256]), 0.3)
    np.testing.assert_allclose(rarest_of_four, [0.3, 0.3, 0.15], rtol=1e-15)


def test_cb_focal_by_hand():
    """Sigmoids of 0 and +-ln 3 are 1/2, 3/4 and 1/4; the weights are 6/5 and 4/5.

    Image of class 0: 6/5 (1/2^2 ln 2 + (3/4)^2 ln 4);
    of class 1: 4/5 (1/2^2 ln 2 + (1/4)^2 ln(4/3)).
    """
    loss = made("cb_focal", [1, 2], class_balanced_beta=0.5, focal_gamma=2.0)
    value, _ = ours(loss, [[0, math.log(3)]] * 2, np.eye(2))
    first = 6 / 5 * (math.log(2) / 4 + 9 / 16 * math.log(4))
    second = 4 / 5 * (math.log(2) / 4 + math.log(4 / 3) / 16)
    close(value, (first + second) / 2)


def focal(labels, weights, gamma):
    """The modulator times PyTorch's binary cross entropy, weighted by class."""

    def loss(z):
        yes = F.one_hot(torch.tensor(labels), z.shape[1]).to(z.dtype)
        missing = torch.sigmoid(z * (1 - 2 * yes))  # 1 - p of the right answer
        terms = F.binary_cross_entropy_with_logits(z, yes, reduction="none")
        rows = (missing**gamma * terms).sum(1)
        return (torch.tensor(weights)[labels] * rows).mean()

    return loss


@CASES
@SEEDS
@SPREADS
@pytest.mark.parametrize("gamma", [0, 0.5, 2])
def test_cb_focal_is_the_formula(seed, batch, classes, spread, gamma):
    """Breaks when p is the softmax, or logits of -60 meet a power of 0."""
    logits, labels, counts = drawn(seed, batch, classes, spread)
    loss = made("cb_focal", counts, focal_gamma=gamma)
    found = ours(loss, logits, one_hot(labels, classes))
    weights = effective_numbers(counts, 0.999)
    agree(found, theirs(focal(labels, weights, gamma), logits))
    if spread == "large":  # too near 1 for the plain formula
        return
    signs = np.where(one_hot(labels, classes) == 1, 1, -1)
    p = 1 / (1 + np.exp(-signs * logits.astype(np.float64)))
    rows = -((1 - p) ** gamma * np.log(p)).sum(1)
    close(found[0], (weights[labels] * rows).mean())


def test_cb_focals_head_starts_with_the_probability_of_one_class():
    run = Mock(spec=Run)
    run.head.return_value = LinearHead(10)
    head = RECIPES["cb_focal"].head(run, {})
    params = head.init(jax.random.key(0), jnp.zeros((1, 4)))
    probabilities = jax.nn.sigmoid(head.apply(params, jnp.zeros((1, 4))))
    close(probabilities, np.full((1, 10), 1 / 10))
    close(params["params"]["visual_fc"]["bias"], np.full(10, -math.log(9)))
    kernel = params["params"]["visual_fc"]["kernel"]
    assert kernel.shape == (4, 10) and np.ptp(kernel) > 0.1  # drawn as ever


def test_ldam_by_hand():
    """Counts 1 and 16 give margins 1/2 and 1/4; all cosines are 1/2.

    Class 0: 30 (1/2 - 1/2) = 0 against 30/2 = 15, a loss of ln(1 + e^15). Class 1 has
    two images: 30 (1/2 - 1/4) = 7.5 against 15, ln(1 + e^7.5) each. Late weights with
    beta 1/2 go as 1 and 0.5 / (1 - 2^-16).
    """
    loss = made("ldam_drw", [1, 16], num_steps=10, deferred_beta=0.5)
    cosines, targets = [[0.5, 0.5]] * 3, np.eye(2)[[0, 1, 1]]
    terms = math.log(1 + math.exp(15)), math.log(1 + math.exp(7.5))
    close(ours(loss, cosines, targets, step=0)[0], (terms[0] + 2 * terms[1]) / 3)
    weight = 0.5 / (1 - 2**-16)
    expected = (terms[0] + 2 * weight * terms[1]) / (1 + 2 * weight)
    close(ours(loss, cosines, targets, step=9)[0], expected)


def torch_ldam(labels, counts, weights=None, scale=30.0, max_margin=0.5):
    """The margin off the logit at the target's index, then weighted cross entropy."""
    margins = torch.tensor(np.asarray(counts, np.float64)).pow(-0.25)
    margins = margins * (max_margin / margins.max())
    labels = torch.tensor(labels)

    def loss(z):
        own = torch.zeros_like(z).scatter(1, labels[:, None], margins[labels][:, None])
        weight = None if weights is None else torch.tensor(weights)
        return F.cross_entropy(scale * (z - own), labels, weight=weight)

    return loss


@CASES
@SEEDS
@SPREADS
def test_ldam_is_pytorchs_weighted_cross_entropy(seed, batch, classes, spread):
    """Breaks when the weighted mean divides by B, or the margin is taken of all."""
    logits, labels, counts = drawn(seed, batch, classes, spread)
    cosines = np.clip(logits / 4, -2, 2)  # scaled: to 60
    targets = one_hot(labels, classes)
    loss = made("ldam_drw", counts, num_steps=100)
    early = torch_ldam(labels, counts)
    agree(ours(loss, cosines, targets, 0), theirs(early, cosines))
    late = torch_ldam(labels, counts, effective_numbers(counts, 0.9999))
    agree(ours(loss, cosines, targets, 99), theirs(late, cosines))


def test_ldam_takes_its_options():
    logits, labels, counts = drawn(3, 7, 5)
    loss = made(
        "ldam_drw",
        counts,
        ldam_scale=7.0,
        ldam_max_margin=0.2,
        deferred_beta=0.9,
        deferred_share=1.0,
    )
    weights = effective_numbers(counts, 0.9)
    expected = torch_ldam(labels, counts, weights, scale=7.0, max_margin=0.2)
    agree(ours(loss, logits, one_hot(labels, 5)), theirs(expected, logits))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("size", [2, 20])
def test_finite_far_beyond_logits_in_use(name, size):
    """Breaks when a power is taken of a sigmoid that is 0."""
    logits, labels, counts = drawn(4, 7, 5, "large")
    value, _ = ours(made(name, counts), size * logits, one_hot(labels, 5))
    assert value > size


def test_weights_are_deferred_to_step_80_of_100_under_jit():
    """Breaks when weights set in at step 79 or 81, or the step is not traced."""
    logits, labels, counts = drawn(0, 16, 40)
    cosines, targets = jnp.tanh(logits), jnp.asarray(one_hot(labels, 40))
    traces = []
    loss = made("ldam_drw", counts, num_steps=100, deferred_share=0.2)

    @jax.jit
    def compiled(step):
        traces.append(step)
        return jax.value_and_grad(loss)(cosines, targets, step)

    reweighted = torch_ldam(labels, counts, effective_numbers(counts, 0.9999))
    early = theirs(torch_ldam(labels, counts), np.asarray(cosines))
    late = theirs(reweighted, np.asarray(cosines))
    assert abs(early[0] - late[0]) > 0.1
    for step in (0, 1, 20, 78, 79):
        agree(compiled(jnp.int32(step)), early)
    for step in (80, 81, 99, 100):
        agree(compiled(jnp.int32(step)), late)
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("num_steps", "share", "first"),
    [(200, 0.2, 160), (7, 0.2, 6), (100, 0.29, 71), (100, 0.0, 100), (9, 1.0, 0)],
)
def test_first_deferred_step(num_steps, share, first):
    """100 steps times 0.29 are 28.999999999999996, which must not become 28."""
    assert first_deferred_step(num_steps, share) == first


def test_cosines_do_not_see_lengths():
    rng = np.random.default_rng(0)
    features, kernel = rng.normal(size=(5, 8)), rng.normal(size=(8, 3))
    expected = torch.cosine_similarity(
        torch.tensor(features)[:, None], torch.tensor(kernel.T)[None], dim=2
    )
    head = CosineHead(3)
    for length in (1e-3, 1.0, 1e4):
        rows, columns = (
            length * rng.uniform(1, 2, (5, 1)),
            rng.uniform(1, 2, 3) / length,
        )
        params = {"visual_kernel": jnp.asarray(kernel * columns, jnp.float32)}
        x = jnp.asarray(features * rows, jnp.float32)
        close(head.apply({"params": params}, x), expected.numpy())
    one = RECIPES["ldam_drw"].head(Mock(inputs=Mock(num_classes=3), spec=Run), {})
    assert one == head
    close(head.apply({"params": params}, jnp.zeros((2, 8))), np.zeros((2, 3)))


def test_balanced_softmax_by_hand():
    """n e^z is 1 * 6, 2 * 3 and 3 * 2: each class has one third."""
    z = [[math.log(6), math.log(3), math.log(2)]]
    for label in range(3):
        value, _ = ours(made("balanced_softmax", [1, 2, 3]), z, np.eye(3)[[label]])
        close(value, math.log(3))


def test_logit_adjustment_by_hand():
    """With tau 2, pi^2 e^z goes as 1 * 6, 4 * 3 and 9 * 2: 1/6, 1/3 and 1/2."""
    loss = made("logit_adjustment", [1, 2, 3], logit_adjustment_tau=2.0)
    z = [[math.log(6), math.log(3), math.log(2)]]
    for label, p in enumerate((1 / 6, 1 / 3, 1 / 2)):
        close(ours(loss, z, np.eye(3)[[label]])[0], -math.log(p))


@CASES
@SEEDS
@SPREADS
@pytest.mark.parametrize("name", ["balanced_softmax", "logit_adjustment"])
def test_a_softmax_weighted_by_counts(seed, batch, classes, spread, name):
    """Balanced softmax, which is logit adjustment at its default tau of 1."""
    logits, labels, counts = drawn(seed, batch, classes, spread)
    found = ours(made(name, counts), logits, one_hot(labels, classes))
    weighed = counts * np.exp(logits.astype(np.float64))  # e^60 is finite
    own = weighed[np.arange(batch), labels]
    close(found[0], -np.log(own / weighed.sum(1)).mean())
    shares = weighed / weighed.sum(1, keepdims=True)
    close(found[1], (shares - one_hot(labels, classes)) / batch)


@CASES
@SEEDS
@SPREADS
@pytest.mark.parametrize("tau", [0, 0.5, 1.5])
def test_logit_adjustment_is_cross_entropy_of_shifted_logits(
    seed, batch, classes, spread, tau
):
    """Breaks when the sign of tau or the logarithm is lost; tau 0 shifts nothing."""
    logits, labels, counts = drawn(seed, batch, classes, spread)
    loss = made("logit_adjustment", counts, logit_adjustment_tau=tau)
    found = ours(loss, logits, one_hot(labels, classes))
    shift = torch.tensor(tau * np.log(counts / counts.sum()))
    labels = torch.tensor(labels)
    agree(found, theirs(lambda z: F.cross_entropy(z + shift, labels), logits))


@SEEDS
@pytest.mark.parametrize(
    ("name", "tau"), [("balanced_softmax", 1.5), ("logit_adjustment", 1.5)]
)
def test_soft_targets(seed, name, tau):
    """Label smoothing, and shares of two classes; balanced softmax knows no tau."""
    logits, labels, counts = drawn(seed, 16, 40)
    loss = made(name, counts, logit_adjustment_tau=tau)
    power = 1 if name == "balanced_softmax" else tau
    shift = torch.tensor(power * np.log(counts / counts.sum()))
    hard, index = one_hot(labels, 40), torch.tensor(labels)
    agree(
        ours(loss, logits, 0.9 * hard + 0.1 / 40),
        theirs(
            lambda z: F.cross_entropy(z + shift, index, label_smoothing=0.1), logits
        ),
    )
    mixed = 0.7 * hard + 0.3 * hard[::-1]
    shares = torch.tensor(mixed, dtype=torch.float64)
    agree(
        ours(loss, logits, mixed),
        theirs(lambda z: F.cross_entropy(z + shift, shares), logits),
    )


@pytest.mark.parametrize("name", LOSSES)
def test_a_class_without_images_counts_as_one_with_one(name):
    empty, single = np.array([0, 3, 100_000]), np.array([1, 3, 100_000])
    assert math.isclose(np.exp(log_priors(empty)).sum(), 1, rel_tol=1e-12)
    assert np.isfinite(effective_number_weights(empty, 0.9999)).all()
    assert ldam_margins(empty, 0.5).max() == 0.5
    logits = np.array([[1, -1, 2]] * 3, np.float32) / 4
    for targets in (np.eye(3), np.eye(3)[[0, 0, 0]]):
        for step in (0, 99):
            found = ours(made(name, empty), logits, targets, step)
            agree(found, ours(made(name, single), logits, targets, step))
