import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import traverse_util

from vl_ltr_jax.train import optim
from vl_ltr_jax.train import state as train_state

GOLDEN = Path(__file__).parents[1] / "golden"
SCHEDULES = json.loads((GOLDEN / "schedule" / "schedule.json").read_text())
OPTIMIZERS = json.loads((GOLDEN / "optimizer" / "optimizer.json").read_text())
# Rank of every parameter by name, taken from the shapes of the same models.
RANKS = json.loads((GOLDEN / "optimizer" / "parameter_ranks.json").read_text())


@pytest.mark.parametrize("case", SCHEDULES, ids=lambda case: case["name"])
def test_schedule_matches_vl_ltr(case):
    """The rate of the first and last step of every epoch, for every group.

    Breaks without the lag of one epoch, with a cosine that starts after the warm-up, or
    when the rate moves within an epoch (each by more than 1e-3 of the rate).
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
    golden = OPTIMIZERS[model]
    frozen = set(golden["not_in_optimizer"])
    names = [name for group in golden["groups"] for name in group["params"]]
    params = traverse_util.unflatten_dict(
        {name: jnp.ones((1,) * RANKS[name]) for name in (*names, *frozen)}, sep="."
    )
    optimizer = optim.make_optimizer(
        params,
        schedule=optax.constant_schedule(golden["lr"]),
        weight_decay=golden["weight_decay"],
        text_schedule=optax.constant_schedule(golden["text_lr"])
        if golden["text_lr"]
        else None,
        trainable=lambda path: path.replace("/", ".") not in frozen,
    )
    state = optimizer.init(params)
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.dtype == jnp.float32]
    assert len(moments) == 2 * len(names)

    @jax.jit
    def rate_and_decay(params):
        ones, zeros = (jax.tree.map(f, params) for f in (jnp.ones_like, jnp.zeros_like))
        decay = optimizer.update(zeros, state, params)[0]
        both = optimizer.update(ones, state, params)[0]
        return jax.tree.map(lambda b, d: (d - b, -d), both, decay)

    measured = traverse_util.flatten_dict(rate_and_decay(params), sep=".")
    for group in golden["groups"]:
        expected = group["lr"], group["lr"] * group["weight_decay"]
        for name in group["params"]:
            actual = np.array(measured[name]).ravel()
            assert actual == pytest.approx(expected, rel=1e-4), name
    for name in frozen:
        assert not np.array(measured[name]).any(), name


def test_updates_match_torch():
    """Breaks when decay is not multiplied by the rate, or epsilon enters the root."""
    rng = np.random.default_rng(0)
    shapes = {"visual": (3, 4), "scale": (), "bias": (4,)}
    params = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    theirs = {n: torch.nn.Parameter(torch.tensor(p)) for n, p in params.items()}
    reference = torch.optim.AdamW(
        [
            {"params": [theirs["visual"]], "lr": 1e-2, "weight_decay": 0.05},
            {"params": [theirs["scale"]], "lr": 1e-3, "weight_decay": 0.05},
            {"params": [theirs["bias"]], "lr": 1e-3, "weight_decay": 0.0},
        ]
    )
    optimizer = optim.make_optimizer(
        params,
        schedule=optax.constant_schedule(1e-2),
        weight_decay=0.05,
        text_schedule=optax.constant_schedule(1e-3),
    )
    ours = jax.tree.map(jnp.asarray, params)
    state = optimizer.init(ours)
    for _ in range(5):
        gradients = {
            n: 1e-6 * rng.normal(size=s).astype(np.float32) for n, s in shapes.items()
        }
        for name, parameter in theirs.items():
            parameter.grad = torch.tensor(gradients[name])
        reference.step()
        updates, state = optimizer.update(gradients, state, ours)
        ours = optax.apply_updates(ours, updates)
    for name, parameter in theirs.items():
        expected = parameter.detach().numpy()
        np.testing.assert_allclose(ours[name], expected, rtol=1e-6, atol=1e-6)


def test_the_rate_follows_the_step():
    optimizer = optim.make_optimizer(
        {"visual": jnp.ones(2)}, schedule=lambda step: 0.1 * step, weight_decay=0.0
    )
    state = train_state.create({"visual": jnp.ones(2)}, optimizer)
    updates, opt_state = optimizer.update(
        {"visual": jnp.ones(2)}, state.opt_state, state.params
    )
    np.testing.assert_array_equal(updates["visual"], np.zeros(2))
    updates, _ = optimizer.update({"visual": jnp.ones(2)}, opt_state, state.params)
    np.testing.assert_allclose(updates["visual"], -0.1, rtol=1e-4)


def test_an_optimizer_without_trained_parameters_is_refused():
    with pytest.raises(ValueError, match="trainable"):
        optim.make_optimizer(
            {"a": jnp.ones(1)},
            schedule=optax.constant_schedule(1.0),
            weight_decay=0.0,
            trainable=lambda path: False,
        )
