"""Heads as functions of their arrays: what features say of every class.

The recognizer's forms of what a run has trained: LGR, with classes that were added by
their sentences, and any head that is linear in the features.
"""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vl_ltr_jax.evaluate import accuracy
from vl_ltr_jax.models import linear
from vl_ltr_jax.models.lgr import LanguageGuidedHead, anchor_constants
from vl_ltr_jax.recognizer import added_classes
from vl_ltr_jax.recognizer.card import ModelCard


class HeadOutputs(NamedTuple):
    """What a head says of features.

    Attributes:
      probabilities: of all classes.
      trained: of the trained classes, as if there were no others.
      visual: logits of the visual branch, of the trained classes.
      language: logits of the language branch, of all classes; without LGR neither
        branch has any.
    """

    probabilities: Float[Array, "b C"]
    trained: Float[Array, "b T"]
    visual: Float[Array, "b T"] | None = None
    language: Float[Array, "b C"] | None = None


def with_constants(arrays: dict[str, Any]) -> dict[str, Any]:
    """Arrays with what :func:`apply` would compute of an LGR's anchors each time."""
    computed = {
        name: {
            **arrays[name],
            "constants": anchor_constants(jnp.asarray(arrays[name]["embeddings"])),
        }
        for name in arrays.keys() & {"anchors", "added"}
    }
    return {**arrays, **computed}


def apply(
    card: ModelCard, arrays: dict[str, Any], features: Float[Array, "b D"]
) -> HeadOutputs:
    """Applies a head to features; pure.

    Args:
      card: says which head.
      arrays: `head`, for :func:`linear.scores` or LGR's parameters; with LGR `anchors`
        and `added`, each `embeddings` [C, M, D], `padding` [C, M] and, where they are
        computed already, `constants`; those of `added` have `offsets` [A].
      features: image embeddings, not normalised.
    """
    if card.head == "linear":
        probabilities = jax.nn.softmax(linear.scores(arrays["head"], features))
        return HeadOutputs(probabilities, probabilities)
    visual, language = _lgr(card, arrays["head"], features, arrays["anchors"])
    if card.prediction == "mixture":
        trained = accuracy.mixture(visual, language, card.visual_weight)
    else:
        trained = jax.nn.softmax(accuracy.sum_of_logits(visual, language))
    if not len(arrays["added"]["offsets"]):
        return HeadOutputs(trained, trained, visual, language)
    added = _added_logits(card, arrays, features)
    return HeadOutputs(
        added_classes.join(trained, language, added),
        trained,
        visual,
        jnp.concatenate([language, added], axis=1),
    )


def _lgr(
    card: ModelCard,
    params: dict[str, Any],
    features: Float[Array, "b D"],
    anchors: dict[str, Any],
) -> tuple[Float[Array, "b C"], Float[Array, "b C"]]:
    num_classes, _, width = anchors["embeddings"].shape
    head = LanguageGuidedHead(
        num_classes,
        width,
        language_logit_scale=card.language_logit_scale,
        dtype=jnp.dtype(card.compute_dtype),
    )
    constants = anchors["constants"] if "constants" in anchors else None
    logits = head.apply(
        {"params": params},
        features,
        anchors["embeddings"],
        anchors["padding"],
        constants,
    )
    return cast(tuple[Array, Array], logits)


def _added_logits(
    card: ModelCard, arrays: dict[str, Any], features: Float[Array, "b D"]
) -> Float[Array, "b A"]:
    """Language logits of the added classes, with their offsets."""
    offsets, params = arrays["added"]["offsets"], arrays["head"]
    first_layer = params["visual_fc"]["fc1"]
    width = first_layer["bias"].shape[0]
    # The visual branch knows nothing of them; the compiler drops it.
    blind = {
        "kernel": jnp.zeros((width, len(offsets))),
        "bias": jnp.zeros(len(offsets)),
    }
    params = {**params, "visual_fc": {"fc1": first_layer, "fc2": blind}}
    return _lgr(card, params, features, arrays["added"])[1] + offsets[None, :]
