"""RIDE: experts that disagree, and a router among them (Wang et al., ICLR 2021).

Losses and rules as pure functions. No configuration runs them yet.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from vl_ltr_jax.systems.class_counts import effective_number_weights
from vl_ltr_jax.systems.ldam_drw import ldam_margins

SCALE = 30.0  # of the cosines that a classifier gives


class ClassConstants(NamedTuple):
    """Constants of each class.

    Attributes:
      margins: taken from the cosine of the true class.
      weights: of an image's term.
      temperatures: of the term that drives experts apart; 1 for the largest class.
    """

    margins: Float[Array, " C"]
    weights: Float[Array, " C"]
    temperatures: Float[Array, " C"]

    def without_weights(self) -> "ClassConstants":
        """Returns the constants of the epochs before re-weighting."""
        ones = jnp.ones_like(self.weights)
        return ClassConstants(self.margins, ones, ones)


def class_constants(
    train_counts: Int[np.ndarray, "C"],
    *,
    reweight_factor: float,
    max_margin: float = 0.5,
    beta: float = 0.9999,
) -> ClassConstants:
    """Returns the constants that follow from the training counts.

    Args:
      train_counts: images of each class.
      reweight_factor: of the temperatures; 0.02 on ImageNet-LT, 0.015 on iNaturalist.
      max_margin: of the rarest class.
      beta: of the effective numbers, see :func:`effective_number_weights`.
    """
    counts = np.maximum(train_counts, 1).astype(np.float64)
    shares = 1 - reweight_factor + reweight_factor * counts / counts.mean()
    return ClassConstants(
        jnp.asarray(ldam_margins(train_counts, max_margin), jnp.float32),
        jnp.asarray(effective_number_weights(train_counts, beta), jnp.float32),
        jnp.asarray(shares / shares.max(), jnp.float32),
    )


def ride(
    logits: Float[Array, "E B C"],
    labels: Int[Array, " B"],
    constants: ClassConstants,
    *,
    diversity: float = -0.2,
    base_temperature: float = 1.0,
) -> Float[Array, ""]:
    """Returns the sum over experts of LDAM's loss, less their distance from the mean.

    As in the authors' code, the distance is to the softmax of the mean logits, which
    has no gradient.

    Args:
      logits: of each expert, scaled by `SCALE`.
      labels: of the images.
      constants: of the epoch.
      diversity: factor of the distance; with 0 each expert's loss is the mean's.
      base_temperature: factor of the temperatures.
    """
    mean = logits.mean(0)
    rows = jnp.arange(len(labels))
    margins = SCALE * constants.margins[labels]
    own = logits if diversity else jnp.broadcast_to(mean[None], logits.shape)
    shifted = own.at[:, rows, labels].add(-margins[None])
    terms = -jax.nn.log_softmax(shifted)[:, rows, labels]
    weights = constants.weights[labels]
    losses = terms @ weights / weights.sum()
    temperatures = base_temperature * constants.temperatures
    target = jax.lax.stop_gradient(mean / temperatures[None])
    distances = _divergence(target[None], logits / temperatures[None, None])
    return jnp.sum(losses + diversity * temperatures.mean() ** 2 * distances)


def distilled(
    student_loss: Float[Array, ""],
    logits: Float[Array, "E B C"],
    teacher_logits: Float[Array, "B C"],
    *,
    temperature: float = 1.5,
    repeats: bool = True,
) -> Float[Array, ""]:
    """Returns the loss of a student, with the distance from its teacher.

    Args:
      student_loss: from :func:`ride`.
      logits: of the student's experts, whose mean learns.
      teacher_logits: the mean of the teacher's experts.
      temperature: of both softmaxes.
      repeats: True as in the authors' code, which adds the whole loss once for each
        expert; False for the paper's.
    """
    student = logits.mean(0) / temperature
    distance = _divergence(teacher_logits / temperature, student)
    total = student_loss + temperature**2 * distance
    return total * len(logits) if repeats else total


def _divergence(
    target: Float[Array, "*#E B C"], logits: Float[Array, "*#E B C"]
) -> Float[Array, "..."]:
    """Returns the mean over images of the divergence of two softmaxes."""
    log_p, log_q = jax.nn.log_softmax(target), jax.nn.log_softmax(logits)
    return jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1), axis=-1)


def router_targets(
    logits: Float[Array, "E B C"], labels: Int[Array, " B"]
) -> Bool[Array, "B K"]:
    """Returns where further experts help, for each of the first K = E - 1.

    The first i experts are wrong, and with some later one they are right.
    """
    right = jnp.argmax(jnp.cumsum(logits, axis=0), axis=-1) == labels[None]
    later = jax.lax.cummax(right.astype(jnp.int32), axis=0, reverse=True)
    return (~right[:-1] & (later[1:] > 0)).T


def router_loss(
    scores: Float[Array, "B K"],
    targets: Bool[Array, "B K"],
    *,
    positive_weight: float = 100.0,
) -> Float[Array, ""]:
    """Returns binary cross entropy, heavier where further experts help."""
    terms = optax.sigmoid_binary_cross_entropy(scores, targets.astype(scores.dtype))
    return jnp.mean(terms * jnp.where(targets, positive_weight, 1.0))


def routed(
    logits: Float[Array, "E B C"], scores: Float[Array, "B K"]
) -> tuple[Float[Array, "B C"], Int[Array, " B"]]:
    """Returns the mean logits of the experts that each image visits, and their number.

    An image goes on while the router's score is above 0, and stops for good.
    """
    goes_on = jnp.cumprod((scores > 0).astype(jnp.int32), axis=1)
    used = 1 + goes_on.sum(1)
    visits = jnp.arange(len(logits))[:, None] < used[None]
    total = jnp.sum(jnp.where(visits[..., None], logits, 0), axis=0)
    return total / used[:, None], used
