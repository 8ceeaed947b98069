"""Losses that know the training counts, against their papers' formulas and PyTorch."""

import math
from decimal import Decimal, localcontext
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
from vl_ltr_jax.systems.class_counts import effective_number_weights
from vl_ltr_jax.systems.ldam_drw import first_deferred_step, ldam_margins
from worlds.golden import close

LOSSES = ("cb_focal", "ldam_drw", "balanced_softmax", "logit_adjustment")
SHAPES = pytest.mark.parametrize(("batch", "classes"), [(1, 2), (7, 5), (16, 40)])
SPREADS = pytest.mark.parametrize("spread", ["usual", "large"])


def loss_of(name, counts, num_steps=100, **options):
    config = Config(method=name, rebalance=Rebalance(**options))
    return RECIPES[name].make_loss(config, np.asarray(counts), num_steps)


def draw(batch, classes, spread="usual"):
    """Returns logits, labels, and counts; one is 1 and one 100000."""
    rng = np.random.default_rng((0, batch, classes))
    logits = rng.normal(size=(batch, classes)) * 2
    if spread == "large":
        logits = rng.choice([-60.0, 60.0], size=logits.shape)
    counts = np.exp(rng.uniform(0, math.log(1e5), classes)).astype(int)
    counts[rng.permutation(classes)[:2]] = 1, 100_000
    return logits.astype(np.float32), rng.integers(0, classes, batch), counts


def one_hot(labels, classes):
    return np.eye(classes, dtype=np.float32)[labels]


def differentiate(loss, logits, targets, step=0):
    """Returns value and gradient of our loss, in float32."""
    value, gradient = jax.value_and_grad(loss)(
        jnp.asarray(logits, jnp.float32),
        jnp.asarray(targets, jnp.float32),
        jnp.int32(step),
    )
    assert np.isfinite(value) and np.isfinite(gradient).all()
    return value, gradient


def agree(loss, logits, targets, expected, step=0):
    """Asserts that value and gradient are those of a float64 function of PyTorch."""
    z = torch.tensor(np.asarray(logits), dtype=torch.float64, requires_grad=True)
    value = expected(z)
    value.backward()
    ours, gradient = differentiate(loss, logits, targets, step)
    close(ours, value.item())
    close(gradient, z.grad.numpy())


def effective_numbers(counts, beta):
    """Returns (1 - beta) / (1 - beta^n), which sum to C, from 40 digits."""
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
    loss = loss_of("cb_focal", [1, 2], class_balanced_beta=0.5, focal_gamma=2.0)
    value, _ = differentiate(loss, [[0, math.log(3)]] * 2, np.eye(2))
    first = 6 / 5 * (math.log(2) / 4 + 9 / 16 * math.log(4))
    second = 4 / 5 * (math.log(2) / 4 + math.log(4 / 3) / 16)
    close(value, (first + second) / 2)


def focal(labels, weights, gamma):
    """Returns the modulator times PyTorch's cross entropy, weighted by class."""

    def loss(z):
        truth = F.one_hot(torch.tensor(labels), z.shape[1]).to(z.dtype)
        wrong = torch.sigmoid(z * (1 - 2 * truth))  # 1 - p of the right answer
        terms = F.binary_cross_entropy_with_logits(z, truth, reduction="none")
        rows = (wrong**gamma * terms).sum(1)
        return (torch.tensor(weights)[labels] * rows).mean()

    return loss


@SHAPES
@SPREADS
@pytest.mark.parametrize("gamma", [0, 0.5, 2])
def test_cb_focal_is_the_formula(batch, classes, spread, gamma):
    """Breaks when p is the softmax, or logits of -60 meet a power of 0."""
    logits, labels, counts = draw(batch, classes, spread)
    loss = loss_of("cb_focal", counts, focal_gamma=gamma)
    expected = focal(labels, effective_numbers(counts, 0.999), gamma)
    agree(loss, logits, one_hot(labels, classes), expected)


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
    loss = loss_of("ldam_drw", [1, 16], num_steps=10, deferred_beta=0.5)
    cosines, targets = [[0.5, 0.5]] * 3, np.eye(2)[[0, 1, 1]]
    terms = math.log(1 + math.exp(15)), math.log(1 + math.exp(7.5))
    close(
        differentiate(loss, cosines, targets, step=0)[0], (terms[0] + 2 * terms[1]) / 3
    )
    weight = 0.5 / (1 - 2**-16)
    expected = (terms[0] + 2 * weight * terms[1]) / (1 + 2 * weight)
    close(differentiate(loss, cosines, targets, step=9)[0], expected)


def torch_ldam(labels, counts, weights=None, scale=30.0, max_margin=0.5):
    """Returns weighted cross entropy with the margin off the target's logit."""
    margins = torch.tensor(np.asarray(counts, np.float64)).pow(-0.25)
    margins = margins * (max_margin / margins.max())
    labels = torch.tensor(labels)

    def loss(z):
        own = torch.zeros_like(z).scatter(1, labels[:, None], margins[labels][:, None])
        weight = None if weights is None else torch.tensor(weights)
        return F.cross_entropy(scale * (z - own), labels, weight=weight)

    return loss


@SHAPES
@SPREADS
def test_ldam_is_pytorchs_weighted_cross_entropy(batch, classes, spread):
    """Breaks when the weighted mean divides by B, or the margin is taken of all."""
    logits, labels, counts = draw(batch, classes, spread)
    cosines = np.clip(logits / 4, -2, 2)  # scaled: to 60
    loss, targets = loss_of("ldam_drw", counts), one_hot(labels, classes)
    for step, weights in ((0, None), (99, effective_numbers(counts, 0.9999))):
        agree(loss, cosines, targets, torch_ldam(labels, counts, weights), step)


def test_ldam_takes_its_options():
    logits, labels, counts = draw(7, 5)
    options = {"ldam_scale": 7.0, "ldam_max_margin": 0.2}
    options |= {"deferred_beta": 0.9, "deferred_share": 1.0}
    weights = effective_numbers(counts, 0.9)
    expected = torch_ldam(labels, counts, weights, scale=7.0, max_margin=0.2)
    agree(loss_of("ldam_drw", counts, **options), logits, one_hot(labels, 5), expected)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("size", [2, 20])
def test_finite_far_beyond_logits_in_use(name, size):
    """Breaks when a power is taken of a sigmoid that is 0."""
    logits, labels, counts = draw(7, 5, "large")
    value, _ = differentiate(loss_of(name, counts), size * logits, one_hot(labels, 5))
    assert value > size


def test_weights_are_deferred_to_step_80_of_100_under_jit():
    """Breaks when weights set in at step 79 or 81, or the step is not traced."""
    logits, labels, counts = draw(16, 40)
    loss = jax.jit(loss_of("ldam_drw", counts, num_steps=100, deferred_share=0.2))
    early = torch_ldam(labels, counts)
    late = torch_ldam(labels, counts, effective_numbers(counts, 0.9999))
    for step in (0, 1, 78, 79, 80, 81, 100):
        expected = early if step < 80 else late
        agree(loss, np.tanh(logits), one_hot(labels, 40), expected, step)


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
        rows = length * rng.uniform(1, 2, (5, 1))
        columns = rng.uniform(1, 2, 3) / length
        params = {"visual_kernel": jnp.asarray(kernel * columns, jnp.float32)}
        x = jnp.asarray(features * rows, jnp.float32)
        close(head.apply({"params": params}, x), expected.numpy())
    run = Mock(inputs=Mock(num_classes=3), spec=Run)
    assert RECIPES["ldam_drw"].head(run, {}) == head
    close(head.apply({"params": params}, jnp.zeros((2, 8))), np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("name", "shares"),
    [("balanced_softmax", (1 / 3,) * 3), ("logit_adjustment", (1 / 6, 1 / 3, 1 / 2))],
)
def test_balanced_softmax_by_hand(name, shares):
    """n e^z is 1 * 6, 2 * 3 and 3 * 2; with tau 2, n^2 e^z is 6, 12 and 18."""
    loss = loss_of(name, [1, 2, 3], logit_adjustment_tau=2.0)
    z = [[math.log(6), math.log(3), math.log(2)]]
    for label, share in enumerate(shares):
        close(differentiate(loss, z, np.eye(3)[[label]])[0], -math.log(share))


@SHAPES
@SPREADS
@pytest.mark.parametrize("tau", [0, 0.5, 1, 1.5])
def test_logit_adjustment_is_cross_entropy_of_shifted_logits(
    batch, classes, spread, tau
):
    """Breaks when the sign of tau or the logarithm is lost; tau 0 shifts nothing.

    With tau 1 it is balanced softmax, which knows no tau. Targets are hard, smoothed,
    and mixed of two classes.
    """
    logits, labels, counts = draw(batch, classes, spread)
    losses = [loss_of("logit_adjustment", counts, logit_adjustment_tau=tau)]
    losses += [loss_of("balanced_softmax", counts)] * (tau == 1)
    shift = torch.tensor(tau * np.log(counts / counts.sum()))
    hard = one_hot(labels, classes)
    mixed = 0.7 * hard + 0.3 * hard[::-1]
    for targets in (hard, 0.9 * hard + 0.1 / classes, mixed):
        shares = torch.tensor(targets, dtype=torch.float64)
        for loss in losses:
            agree(
                loss, logits, targets, lambda z, p=shares: F.cross_entropy(z + shift, p)
            )


@pytest.mark.parametrize("name", LOSSES)
def test_a_class_without_images_counts_as_one_with_one(name):
    empty, single = (loss_of(name, [count, 3, 100_000]) for count in (0, 1))
    logits = np.array([[1, -1, 2]] * 3, np.float32) / 4
    for targets in (np.eye(3), np.eye(3)[[0, 0, 0]]):
        for step in (0, 99):
            value, gradient = differentiate(single, logits, targets, step)
            actual = differentiate(empty, logits, targets, step)
            close(actual[0], value)
            close(actual[1], gradient)
