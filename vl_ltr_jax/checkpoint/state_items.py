"""A state as a checkpoint holds it: the item `model`, and the item `training`."""

import dataclasses
from typing import Any

import jax
import numpy as np

MODEL_FIELDS = ("params", "batch_stats")


def fields(state: Any) -> dict[str, Any]:
    """All fields of a state."""
    return {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}


def split(state: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of a state that a later stage reads, and all others."""
    found = fields(state)
    model = {name: found.pop(name) for name in MODEL_FIELDS if name in found}
    return model, found


def abstract(tree: Any) -> Any:
    """Array leaves as shapes with their shardings; numpy leaves stay numpy."""

    def describe(leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray):
            return leaf
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)

    return jax.tree.map(describe, tree)
