"""Whether the parts of a recognizer fit each other, before anything is computed."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, get_type_hints

import numpy as np
from flax import traverse_util
from jaxtyping import Float32

from vl_ltr_jax.data.images import transforms
from vl_ltr_jax.data.images.orientation import ORIENTATIONS
from vl_ltr_jax.models.clip import PRESETS, variable_shapes
from vl_ltr_jax.models.layers import ACTIVATIONS
from vl_ltr_jax.models.lgr import head_shapes
from vl_ltr_jax.recognizer.card import ModelCard

_CHOICES: dict[str, Collection[str]] = {
    "backbone": PRESETS,
    "compute_dtype": ("float32", "bfloat16"),
    "vision_activation": ACTIVATIONS,
    "text_activation": ACTIVATIONS,
    "eval_recipe": transforms.EVAL_RECIPES,
    "head": ("lgr", "linear"),
    "prediction": ("mixture", "sum"),
    "orientation": ORIENTATIONS,
}
_KINDS: dict[Any, Any] = {str: str, int: int, float: (int, float)}
_TEXT = "towers/params/text/"
_LARGEST_LOG = 80.0  # float32 has no larger exponential by far


def check(
    card: ModelCard,
    arrays: Mapping[str, Any],
    reference: Float32[np.ndarray, "N D"] | None,
) -> None:
    """Compares a card, the arrays and the reference with each other.

    Raises:
      ValueError: naming the first that does not fit.
    """
    _check_card(card)
    found = _flat(arrays)
    expected = _expected(card, found)
    if unknown := sorted(found.keys() - expected.keys()):
        raise ValueError(f"{unknown[0][:100]} belongs to no recognizer")
    for name, shape in expected.items():
        if name not in found or found[name].shape != shape:
            given = list(found[name].shape) if name in found else "absent"
            raise ValueError(f"{name} is {given}, not {list(shape)}")
        kind = np.bool_ if name.endswith("/padding") else np.floating
        if not np.issubdtype(found[name].dtype, kind):
            raise ValueError(f"{name} is of {found[name].dtype}")
        # The towers are large, and have checksums that tell them from damage.
        if not name.startswith("towers/") and np.isnan(found[name]).any():
            raise ValueError(f"{name} has values that are not numbers")
    if reference is None:
        return
    width = card.clip_config.embed_dim
    if reference.ndim != 2 or reference.shape[1] != width:
        raise ValueError(f"reference is {list(reference.shape)}, not [N, {width}]")
    if not np.isfinite(reference).all():
        raise ValueError("reference has values that are not numbers")


def _check_card(card: ModelCard) -> None:
    hints = get_type_hints(ModelCard)
    for field in dataclasses.fields(card):
        value = getattr(card, field.name)
        kind = _KINDS[hints[field.name]] if hints[field.name] in _KINDS else object
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{field.name} is {value!r}")
        if field.name in _CHOICES and value not in _CHOICES[field.name]:
            allowed = ", ".join(_CHOICES[field.name])
            raise ValueError(f"{field.name} is {value!r}; allowed are {allowed}")
    if not 0 <= card.visual_weight <= 1:
        raise ValueError(f"visual_weight is {card.visual_weight}, not from 0 to 1")
    if not abs(card.language_logit_scale) <= _LARGEST_LOG:
        raise ValueError(f"language_logit_scale is {card.language_logit_scale}")
    most = card.clip_config.text.context_length
    if not 2 <= card.context_length <= most:
        raise ValueError(f"context_length is {card.context_length}, not 2 to {most}")
    num_classes = len(card.class_names)
    if not 0 < card.num_trained <= num_classes or len(card.sentences) != num_classes:
        raise ValueError(
            f"{num_classes} class names, {card.num_trained} of them trained, but "
            f"sentences of {len(card.sentences)} classes"
        )
    if card.head == "linear" and card.num_trained != num_classes:
        raise ValueError("a linear head has trained classes only")


def _expected(card: ModelCard, found: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes by flat name."""
    width, trained = card.clip_config.embed_dim, card.num_trained
    towers: Any = _flat({"towers": variable_shapes(card.clip_config)})
    if not any(name.startswith(_TEXT) for name in found):
        # An LGR of the authors has no text tower.
        towers = {n: s for n, s in towers.items() if not n.startswith(_TEXT)}
    shapes = {name: tuple(leaf.shape) for name, leaf in towers.items()}
    if card.head == "linear":
        shapes |= {"head/kernel": (width, trained), "head/bias": (trained,)}
        return shapes | ({"head/centre": (width,)} if "head/centre" in found else {})
    head = head_shapes(trained, width)
    shapes |= {name: leaf.shape for name, leaf in _flat({"head": head}).items()}
    padding = found["anchors/padding"] if "anchors/padding" in found else np.zeros(0)
    num_anchors = padding.shape[-1]
    if padding.ndim != 2 or not num_anchors:
        raise ValueError("anchors/padding is no table of classes and anchors")
    for part, count in (
        ("anchors", trained),
        ("added", len(card.class_names) - trained),
    ):
        shapes[f"{part}/embeddings"] = (count, num_anchors, width)
        shapes[f"{part}/padding"] = (count, num_anchors)
    return {**shapes, "added/offsets": (len(card.class_names) - trained,)}


def _flat(tree: Any) -> dict[str, Any]:
    return dict(traverse_util.flatten_dict(tree, sep="/"))
