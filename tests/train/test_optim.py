"""Schedules, and the parameters that an optimizer moves and decays."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from vl_ltr_jax.train import optim
from worlds import golden

SCHEDULES = golden.load("schedule/schedule.json")
OPTIMIZERS = golden.load("optimizer/optimizer.json")
# Rank of every parameter by name, from the shapes of the same models.
RANKS = golden.load("optimizer/parameter_ranks.json")


@pytest.mark.parametrize("case", SCHEDULES, ids=lambda case: case["name"])
def test_schedule_matches_vl_ltr(case):
    """The rate of the first and last step of every epoch, for every group.

    Breaks without the lag of one epoch, or with a cosine that starts after the warm-up.
    Breaks when the rate moves within an epoch (each by more than 1e-3 of the rate).
    """
    steps_per_epoch = 7
    for group in range(case["groups"]):
        schedule = optim.cosine_schedule(
            case["text_lr"] if group else case["lr"],
            epochs=case["epochs"],
            steps_per_epoch=steps_per_epoch,
            warmup_epochs=case["warmup_epochs"],
            warmup_learning_rate=case["warmup_lr"],
            min_learning_rate=case["min_lr"],
        )
        expected = np.array(case["lr_used_in_epoch"])[:, group]
        first = np.arange(len(expected)) * steps_per_epoch
        tolerance = 1e-6 * expected.max()
        for steps in (first, first + steps_per_epoch - 1):
            rates = jax.vmap(schedule)(jnp.asarray(steps))
            np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=tolerance)


def test_step_schedule_reaches_both_ends_smoothly():
    schedule = optim.cosine_schedule(
        1e-3,
        epochs=10,
        steps_per_epoch=20,
        warmup_epochs=2,
        min_learning_rate=1e-5,
        per="step",
    )
    rates = np.asarray(jax.vmap(schedule)(jnp.arange(201)))
    np.testing.assert_allclose(rates[[0, 40, 200]], [1e-6, 1e-3, 1e-5], rtol=1e-5)
    assert rates.argmax() == 40
    assert np.abs(np.diff(rates)).max() < 3e-5


@pytest.mark.parametrize("model", OPTIMIZERS)
def test_groups_match_vl_ltr(model):
    """Rate and decay of every parameter by one update.

    Breaks when the 0-d logit scale is not decayed, class_embedding is, `visual_fc` gets
    the text rate, or attention the visual one.
    """
    case = OPTIMIZERS[model]
    frozen = set(case["not_in_optimizer"])
    names = [name for group in case["groups"] for name in group["params"]]
    params = traverse_util.unflatten_dict(
        {name: jnp.ones((1,) * RANKS[name]) for name in (*names, *frozen)}, sep="."
    )
    text_rate = case["text_lr"]
    optimizer = optim.make_optimizer(
        params,
        schedule=optax.constant_schedule(case["lr"]),
        weight_decay=case["weight_decay"],
        text_schedule=optax.constant_schedule(text_rate) if text_rate else None,
        trainable=lambda path: path.replace("/", ".") not in frozen,
    )
    state = optimizer.init(params)
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.dtype == jnp.float32]
    assert len(moments) == 2 * len(names)

    @jax.jit
    def rate_and_decay(params):
        ones, zeros = (jax.tree.map(f, params) for f in (jnp.ones_like, jnp.zeros_like))
        decay = optimizer.update(zeros, state, params)[0]
        move = optimizer.update(ones, state, params)[0]
        return jax.tree.map(lambda m, d: (d - m, -d), move, decay)

    measured = traverse_util.flatten_dict(rate_and_decay(params), sep=".")
    for group in case["groups"]:
        expected = group["lr"], group["lr"] * group["weight_decay"]
        for name in group["params"]:
            actual = np.array(measured[name]).ravel()
            assert actual == pytest.approx(expected, rel=1e-4), name
    for name in frozen:
        assert not np.array(measured[name]).any(), name


def test_the_rate_follows_the_step():
    params = {"visual": jnp.ones(2)}
    optimizer = optim.make_optimizer(
        params, schedule=lambda step: 0.1 * step, weight_decay=0.0
    )
    state = optimizer.init(params)
    for rate in (0.0, 0.1):
        updates, state = optimizer.update(params, state, params)
        np.testing.assert_allclose(updates["visual"], -rate, rtol=1e-4)


def test_an_optimizer_without_trained_parameters_is_refused():
    with pytest.raises(ValueError, match="trainable"):
        optim.make_optimizer(
            {"a": jnp.ones(1)},
            schedule=optax.constant_schedule(1.0),
            weight_decay=0.0,
            trainable=lambda path: False,
        )
