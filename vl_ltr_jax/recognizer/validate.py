"""Checks that a model card and arrays fit each other, before any computation."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util
from jaxtyping import Float32

from vl_ltr_jax.models.clip import variable_shapes
from vl_ltr_jax.models.lgr import head_shapes
from vl_ltr_jax.recognizer.card import ModelCard

_TEXT_TOWER = "towers/params/text/"


def check(
    card: ModelCard,
    arrays: Mapping[str, Any],
    reference: Float32[np.ndarray, "N D"] | None,
) -> None:
    """Compares the shapes of arrays with those that the card implies.

    Raises:
      ValueError: an array is missing, unknown or of another shape.
    """
    num_classes = len(card.class_names)
    if not 0 < card.num_trained <= num_classes == len(card.sentences):
        raise ValueError(
            f"{num_classes} class names, {card.num_trained} of them trained, but "
            f"sentences of {len(card.sentences)} classes"
        )
    shapes = {name: leaf.shape for name, leaf in _flat(arrays).items()}
    expected = _expected(card, shapes)
    if reference is not None:
        shapes["reference"] = reference.shape
        expected["reference"] = (len(reference), card.clip_config.embed_dim)
    for name in sorted(shapes.keys() | expected.keys()):
        if shapes.get(name) != expected.get(name):
            raise ValueError(
                f"{name} is {shapes.get(name)}; the model card implies "
                f"{expected.get(name)}"
            )


def _expected(
    card: ModelCard, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Returns the shapes by flat name."""
    width, num_trained = card.clip_config.embed_dim, card.num_trained
    tree: dict[str, Any] = {"towers": variable_shapes(card.clip_config)}
    if card.head == "lgr":
        tree["head"] = head_shapes(num_trained, width)
    expected = {name: tuple(leaf.shape) for name, leaf in _flat(tree).items()}
    if not any(name.startswith(_TEXT_TOWER) for name in shapes):
        # A released LGR has no text tower.
        expected = {
            name: shape
            for name, shape in expected.items()
            if not name.startswith(_TEXT_TOWER)
        }
    if card.head == "linear":
        expected |= {"head/kernel": (width, num_trained), "head/bias": (num_trained,)}
        return expected | ({"head/centre": (width,)} if "head/centre" in shapes else {})
    num_anchors = shapes.get("anchors/padding", (0, 0))[-1]
    num_added = len(card.class_names) - num_trained
    for part, count in (("anchors", num_trained), ("added", num_added)):
        expected[f"{part}/embeddings"] = (count, num_anchors, width)
        expected[f"{part}/padding"] = (count, num_anchors)
    return {**expected, "added/offsets": (num_added,)}


def _flat(tree: Any) -> dict[str, Any]:
    return dict(traverse_util.flatten_dict(tree, sep="/"))
