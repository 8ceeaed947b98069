"""TADE: experts for several distributions, weighed at test time (Zhang et al., 2022).

Losses and rules as pure functions. No configuration runs them yet.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int

_EPSILON = 1e-9  # added to priors before their logarithm
_SHORTEST = 1e-6  # least length of a distribution in a cosine


def inverse_prior(
    train_counts: Int[np.ndarray, "C"],
) -> tuple[Float64[np.ndarray, "C"], Float64[np.ndarray, "C"]]:
    """Returns the classes' shares, and the same shares dealt in reverse order.

    The rarest class gets the largest. Classes of equal counts get different ones, by
    their order. Differs from TADE: that order is stable, theirs is an accident of the
    sort.
    """
    prior = train_counts / train_counts.sum()
    order = np.argsort(prior, kind="stable")
    inverse = np.empty_like(prior)
    inverse[order] = prior[order][::-1]
    return prior, inverse


def expert_biases(
    train_counts: Int[np.ndarray, "C"], *, tau: float
) -> Float[np.ndarray, "3 C"]:
    """Returns what training adds to the logits of the three experts.

    The first learns the training distribution, the second a uniform one, the third the
    inverse of the training's.

    Args:
      train_counts: images of each class.
      tau: of the third; 2 on ImageNet-LT, 1 on Places-LT and iNaturalist.
    """
    prior, inverse = inverse_prior(train_counts)
    uniform = np.log(prior + _EPSILON)
    reverse = uniform - tau * np.log(inverse + _EPSILON)
    return np.stack([np.zeros_like(prior), uniform, reverse]).astype(np.float32)


def tade(
    logits: Float[Array, "3 B C"],
    labels: Int[Array, " B"],
    biases: Float[Array, "3 C"],
) -> Float[Array, ""]:
    """Returns the sum of the experts' cross entropies, each with its bias."""
    log_p = jax.nn.log_softmax(logits + biases[:, None])
    return -jnp.sum(jnp.mean(log_p[:, jnp.arange(len(labels)), labels], axis=1))


def weighed(
    weights: Float[Array, "3"], logits: Float[Array, "3 B C"]
) -> Float[Array, "B C"]:
    """Returns the experts' logits under a softmax of their weights."""
    return jnp.einsum("e,ebc->bc", jax.nn.softmax(weights), logits)


def disagreement(
    weights: Float[Array, "3"],
    first: Float[Array, "3 B C"],
    second: Float[Array, "3 B C"],
    *,
    entropy: float = 0.0,
) -> Float[Array, ""]:
    """Returns minus the mean cosine of two views' predictions, which weights minimise.

    Args:
      weights: before their softmax, from (1/3, 1/3, 1/3).
      first: logits of one view of the test images.
      second: of another.
      entropy: factor of the predictions' entropy, which iNaturalist's program adds with
        0.01. It is a mean over classes too. Differs from TADE: a probability that
        underflows adds 0, not NaN.
    """
    logs = [jax.nn.log_softmax(weighed(weights, view)) for view in (first, second)]
    p, q = map(jnp.exp, logs)
    lengths = [jnp.maximum(jnp.linalg.norm(x, axis=1), _SHORTEST) for x in (p, q)]
    cosines = jnp.sum(p * q, axis=1) / (lengths[0] * lengths[1])
    loss = -jnp.mean(cosines)
    if entropy:
        loss += entropy * sum(jnp.mean(jnp.exp(x) * x) for x in logs)
    return loss
