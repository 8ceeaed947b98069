"""Losses of BBN, ResLT, RIDE and TADE against golden numbers of the authors' code."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vl_ltr_jax.systems.experts import bbn, reslt, ride, tade
from worlds.clip_oracle import relative_error
from worlds.golden import GOLDEN


def arrays(path):
    return dict(np.load(GOLDEN / path))


def labels_of(golden, name="in/labels"):
    return jnp.asarray(golden[name])


@pytest.mark.parametrize("epochs", [60, 90, 180, 200])
def test_alpha_is_the_authors(epochs):
    """Breaks if alpha reaches 0 with 90 or 180 epochs, or epochs count from 0."""
    expected = arrays("bbn/alpha.npz")[f"alpha/E{epochs}"]
    ours = [bbn.alpha(epoch, epochs) for epoch in range(1, epochs + 1)]
    np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-15)


CASES = [(180, 1), (180, 61), (180, 120), (180, 180), (90, 90)]


@pytest.mark.parametrize("epochs, epoch", CASES)
def test_bbn_mixes_both_branches(epochs, epoch):
    """Breaks if a share goes to the other branch or label, or without the factor 2."""
    golden = arrays("bbn/combiner.npz")
    names = ("feature_cb", "feature_rb", "weight", "bias")
    inputs = [jnp.asarray(golden[f"in/{name}"]) for name in names]
    labels = [labels_of(golden, f"in/label_{branch}") for branch in ("cb", "rb")]
    share = bbn.alpha(epoch, epochs)

    def loss(conventional, reversed_, weight, bias):
        features = bbn.mixed(conventional, reversed_, share)
        return bbn.bbn(features @ weight.T + bias[None], *labels, share)

    value, grads = jax.value_and_grad(loss, argnums=(0, 1, 2, 3))(*inputs)
    case = f"E{epochs}_e{epoch}"
    assert relative_error(value, golden[f"{case}/loss"]) < 1e-5
    for name, gradient in zip(names, grads, strict=True):
        expected = golden[f"{case}/grad_{name}"]
        assert np.abs(gradient - expected).max() <= 1e-5 * np.abs(expected).max()


def test_reversed_classes_are_the_authors():
    """Breaks if a border belongs to the next class, or rare classes are drawn less."""
    golden = arrays("bbn/sampler.npz")
    drawn = bbn.reversed_classes(golden["counts"], golden["u"])
    np.testing.assert_array_equal(drawn, golden["u_class"])
    assert set(bbn.reversed_classes(np.array([0, 3, 0]), np.array([0.0, 0.99]))) == {1}


def test_ranks_are_the_authors():
    golden = arrays("reslt/loss.npz")
    counts = golden["classmap_distinct/counts"]
    ranks = reslt.frequency_ranks(counts)
    np.testing.assert_array_equal(ranks, golden["classmap_distinct/class_map"])
    ties = golden["classmap_ties/counts"]
    expected = golden["classmap_ties/class_map_stable_sort"]
    np.testing.assert_array_equal(reslt.frequency_ranks(ties), expected)


RESLT = json.loads((GOLDEN / "reslt/cases.json").read_text())["cases"]


@pytest.mark.parametrize("name", RESLT)
def test_reslt_is_the_authors(name):
    """Breaks if a branch sees classes past its cut, or each has its own denominator."""
    golden, case = arrays("reslt/loss.npz"), RESLT[name]
    is_inat = case["variant"] == "inat_two_branches"
    branches = "hm" if is_inat else "hmt"
    cuts = [cut for cut in (case["cut_medium"], case["cut_tail"]) if cut is not None]
    logits = [jnp.asarray(golden[f"{name}/logits_{branch}"]) for branch in branches]

    def loss(logits):
        return reslt.reslt(
            logits,
            labels_of(golden, f"{name}/labels"),
            cuts,
            beta=case["beta"],
            smoothing=case["label_smoothing"],
            floors_fusion=not is_inat,
        )

    total, fusion, single = loss(logits)
    grads = jax.grad(lambda logits: loss(logits)[0])(logits)
    terms = {"loss": total, "fusion_loss": fusion, "individual_loss": single}
    for term, value in terms.items():
        assert relative_error(value, golden[f"{name}/f64/{term}"]) < 1e-5
    largest = max(np.abs(golden[f"{name}/f64/grad_{b}"]).max() for b in branches)
    for branch, gradient in zip(branches, grads, strict=True):
        error = np.abs(gradient - golden[f"{name}/f64/grad_{branch}"]).max()
        assert error <= 1e-5 * largest


RIDE = {
    "imagenet": (0.02, {}),
    "inat": (0.015, {}),
    "default_factor": (0.05, {}),
    "no_individual": (0.02, {"diversity": 0.0}),
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", RIDE)
def test_ride_is_the_authors(name, when):
    """Breaks if experts are drawn together, a temperature multiplies, a margin is not
    scaled, or re-weighting leaves the temperatures out."""
    golden = arrays("ride/loss.npz")
    factor, options = RIDE[name]
    constants = ride.class_constants(golden["counts"], reweight_factor=factor)
    stored = ("margins", "base_weights", "diversity_weights")
    for ours, key in zip(constants, stored, strict=True):
        assert relative_error(ours, golden[f"{name}/{key}"]) < 1e-5
    if when == "before":
        constants = constants.without_weights()
    loss = functools.partial(
        ride.ride, labels=labels_of(golden), constants=constants, **options
    )
    value, gradient = jax.value_and_grad(loss)(jnp.asarray(golden["in/expert_logits"]))
    assert relative_error(value, golden[f"{name}/{when}/total"]) < 1e-5
    expected = golden[f"{name}/{when}/grad_expert_logits"]
    assert np.abs(gradient - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_student_of_ride_is_the_authors(when):
    """Breaks if the loss is added once, or the teacher learns from the student."""
    golden = arrays("ride/loss.npz")
    constants = ride.class_constants(golden["counts"], reweight_factor=0.02)
    constants = constants if when == "after" else constants.without_weights()

    def loss(logits, repeats=True):
        own = ride.ride(logits, labels_of(golden), constants)
        teacher = jnp.asarray(golden["in/teacher_logits"])
        return ride.distilled(own, logits, teacher, repeats=repeats)

    logits = jnp.asarray(golden["in/expert_logits"])
    value, gradient = jax.value_and_grad(loss)(logits)
    assert relative_error(value, golden[f"distill/{when}/total"]) < 1e-5
    assert relative_error(4 * loss(logits, False), value) < 1e-6
    expected = golden[f"distill/{when}/grad_expert_logits"]
    assert np.abs(gradient - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("kind", ["shared", "separate"])
def test_the_router_is_the_authors(kind):
    """Breaks if the last expert alone decides on help, or an image that stopped goes
    on."""
    golden = arrays("ride/router.npz")
    logits = jnp.asarray(golden["in/expert_logits"])
    targets = ride.router_targets(logits, labels_of(golden))
    np.testing.assert_array_equal(targets, golden["targets"])
    scores = jnp.asarray(golden[f"{kind}/train/help_logits"])
    loss = ride.router_loss(scores, targets)
    assert relative_error(loss, golden[f"{kind}/train/loss"][0]) < 1e-5
    output, used = ride.routed(logits, scores)
    np.testing.assert_array_equal(used, golden[f"{kind}/test/experts_used"])
    assert relative_error(output, golden[f"{kind}/test/output"]) < 1e-5


@pytest.mark.parametrize("tau", [1, 2])
@pytest.mark.parametrize("case", ["plain", "ties"])
def test_tade_is_the_authors(case, tau):
    """Breaks if the inverse prior is the prior, ties change order, or tau is left
    out."""
    golden = arrays("tade/loss.npz")
    counts = golden["in/counts" if case == "plain" else "in/counts_with_ties"]
    prior, inverse = tade.inverse_prior(counts)
    assert relative_error(prior, golden[f"f64/{case}/prior"]) < 1e-12
    assert relative_error(inverse, golden[f"f64/{case}/inverse_prior"]) < 1e-12
    biases = jnp.asarray(tade.expert_biases(counts, tau=tau))
    value, gradient = jax.value_and_grad(tade.tade)(
        jnp.asarray(golden["in/expert_logits"]), labels_of(golden), biases
    )
    assert relative_error(value, golden[f"{case}/tau{tau}/total"]) < 1e-5
    expected = golden[f"{case}/tau{tau}/grad_expert_logits"]
    assert np.abs(gradient - expected).max() < 1e-5 * np.abs(expected).max()


def test_a_probability_that_underflows_is_no_nan():
    view = jnp.full((3, 2, 4), -1e4).at[:, :, 0].set(1e4)
    loss, gradient = jax.value_and_grad(tade.disagreement)(
        jnp.full(3, 1 / 3), view, view, entropy=0.01
    )
    assert loss == -1 and np.isfinite(gradient).all()


@pytest.mark.parametrize(
    "setting, rate, decay, entropy",
    [
        ("imagenet", 0.025, 5e-4, 0.0),
        ("inat", 0.2, 2e-4, 0.01),
        ("places", 0.01, 4e-4, 0.0),
        ("stops_early", 2.5, 5e-4, 0.0),
    ],
)
def test_weights_learned_at_test_time_are_the_authors(setting, rate, decay, entropy):
    """Breaks if views are compared before their softmax, or decay is left out."""
    golden = arrays("tade/aggregation.npz")
    first, second = (jnp.asarray(golden[f"in/view{view}"]) for view in (1, 2))
    size, expected = int(golden["in/batch_size"]), golden[f"{setting}/f64/grad_of_step"]
    optimizer = optax.chain(
        optax.add_decayed_weights(decay), optax.sgd(rate, 0.9, nesterov=True)
    )
    weights = jnp.full(3, 1 / 3)
    state, gradient = (
        optimizer.init(weights),
        jax.jit(jax.grad(functools.partial(tade.disagreement, entropy=entropy))),
    )
    steps = golden[f"{setting}/f64/weights_after_step"]
    batches = [
        order[start : start + size]
        for order in golden["in/orders"]
        for start in range(0, len(order), size)
    ]
    for step, rows in enumerate(batches[: len(steps)]):
        grads = gradient(weights, first[:, rows], second[:, rows])
        np.testing.assert_allclose(
            grads, expected[step], atol=1e-5 * abs(expected).max()
        )
        updates, state = optimizer.update(grads, state, weights)
        weights = weights + updates
        np.testing.assert_allclose(weights, steps[step], rtol=1e-4, atol=1e-6)
    final = tade.weighed(weights, jnp.asarray(golden["in/plain"]))
    assert relative_error(final, golden[f"{setting}/f64/final_logits"]) < 1e-4
