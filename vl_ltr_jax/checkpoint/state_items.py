"""Items of a checkpoint: `model` and `training`."""

import dataclasses
from typing import Any

import jax
import numpy as np

MODEL_FIELDS = ("params", "batch_stats")


def fields(state: Any) -> dict[str, Any]:
    """Returns all fields of a state."""
    return {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}


def split(state: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the fields of a state that a later stage reads, and all others."""
    training = fields(state)
    model = {name: training.pop(name) for name in MODEL_FIELDS if name in training}
    return model, training


def abstract(tree: Any) -> Any:
    """Returns array leaves as shapes with their shardings; numpy leaves stay numpy."""

    def describe(leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray):
            return leaf
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)

    return jax.tree.map(describe, tree)
