"""The state of training: one tree of everything that a step changes.

The step closes over the model and the optimizer, so a state is plain arrays. It can be
donated, sharded, compared and saved as it is.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array


@struct.dataclass
class TrainState:
    """State of training; fields are trees of arrays.

    The annotations are open because transformations put shapes, shardings and
    checkpoint targets in the same places.

    Attributes:
      step: int32 scalar, number of updates.
      params: all parameters, frozen ones included.
      batch_stats: running BatchNorm statistics; empty for towers without BatchNorm.
      opt_state: state of the optimizer.
    """

    step: Any
    params: Any
    batch_stats: Any
    opt_state: Any


Batch = dict[str, Array]
BatchShapes = dict[str, jax.ShapeDtypeStruct]
Metrics = dict[str, Array]
# From arrays that never change, the state and a batch to the next state and metrics.
Step = Callable[[Any, TrainState, Batch], tuple[TrainState, Metrics]]


def create(
    params: Any, optimizer: optax.GradientTransformation, batch_stats: Any = None
) -> TrainState:
    """Returns the state before the first update."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats={} if batch_stats is None else batch_stats,
        opt_state=optimizer.init(params),
    )
