"""Everything a training step changes, as one tree of arrays.

The model's apply function and the optimizer are closed over by the step, so a state is
plain arrays: it can be donated, sharded, compared and saved as it is.
"""

from typing import Any

import jax.numpy as jnp
import optax
from flax import struct


@struct.dataclass
class TrainState:
    """State of training; fields are trees of arrays.

    The annotations are open because transformations put shapes, shardings and
    checkpoint targets in the same places.

    Attributes:
      step: int32 scalar, number of updates made.
      params: all parameters, frozen ones included.
      batch_stats: running BatchNorm statistics; empty for towers without BatchNorm.
      opt_state: state of the optimizer.
    """

    step: Any
    params: Any
    batch_stats: Any
    opt_state: Any


def create(
    params: Any, optimizer: optax.GradientTransformation, batch_stats: Any = None
) -> TrainState:
    """The state before the first update."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats={} if batch_stats is None else batch_stats,
        opt_state=optimizer.init(params),
    )
