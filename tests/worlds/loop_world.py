"""A training loop over a small regression, and records of what it logs."""

import itertools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from vl_ltr_jax.checkpoint.manager import Checkpoints
from vl_ltr_jax.logs.event_files import Logs
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.train.loop import train
from vl_ltr_jax.train.metrics import Span

OPTIMIZER = optax.adamw(optax.cosine_decay_schedule(1e-2, 40))


@flax.struct.dataclass
class State:
    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any


class Recorder(Logs):
    """Records of everything that is logged."""

    def __init__(self):
        self.written, self.progressed, self.warnings = {}, [], []

    def scalars(self, step, values):
        self.written.setdefault(step, {}).update(values)

    def progress(self, step, num_steps, values, **rates):
        self.progressed.append((step, num_steps))
        assert rates["images_per_second"] == 8 * rates["steps_per_second"] > 0

    def warning(self, text):
        self.warnings.append(text)


@jax.jit
def loss_of(params, batch):
    error = jnp.tanh(batch["image"] @ params["kernel"]) - batch["target"]
    return jnp.mean(error**2)


def step_fn(state, batch):
    loss, gradients = jax.value_and_grad(loss_of)(state.params, batch)
    updates, opt_state = OPTIMIZER.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    new = state.replace(step=state.step + 1, params=params, opt_state=opt_state)
    return new, {"loss": loss, "loss/visual": loss * 2}


def new_state():
    mesh = meshes.make_mesh()
    kernel = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    params = meshes.place({"kernel": kernel}, meshes.replicated(mesh))
    state = State(np.int32(0), params, {}, OPTIMIZER.init(params))
    return meshes.place(state, meshes.replicated(mesh))


def batches(first_step=0, poisoned=()):
    mesh = meshes.make_mesh()
    for step in itertools.count(first_step + 1):
        rng = np.random.default_rng(step)
        image = rng.normal(size=(8, 16)).astype(np.float32)
        target = rng.normal(size=(8, 4)).astype(np.float32)
        if step in poisoned:
            image[3] = np.nan
        yield meshes.to_global(mesh, {"image": image, "target": target})


def run(directory, *, num_steps, poisoned=(), step=None, logs=None, **options):
    """Starts or resumes training, as a stage does."""
    logs = logs or Recorder()
    step = step or jax.jit(step_fn, donate_argnums=0)
    every = options.pop("checkpoint_every_steps", 4)
    with Checkpoints(directory, every_steps=every, keep=2) as checkpoints:
        restored = checkpoints.restore_latest(new_state())
        state, meta = restored or (new_state(), {})
        first_step = int(state.step)
        state = train(
            state,
            step,
            batches(first_step, poisoned),
            Span(first_step, num_steps, 8, options.pop("log_every_steps", 3)),
            checkpoints=checkpoints,
            logs=logs,
            meta=lambda: {"starts": meta.get("starts", 0) + 1},
            **options,
        )
    return state, logs


def assert_bit_equal(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
