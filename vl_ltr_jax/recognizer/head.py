"""Heads as pure functions of their arrays: LGR with added classes, and linear heads."""

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
    """Probabilities and logits of a batch.

    Attributes:
      probabilities: probabilities of all classes.
      trained: probabilities of the trained classes, without added classes.
      visual: logits of the visual branch; None without LGR.
      language: logits of the language branch, for all classes; None without LGR.
    """

    probabilities: Float[Array, "b C"]
    trained: Float[Array, "b T"]
    visual: Float[Array, "b T"] | None = None
    language: Float[Array, "b C"] | None = None


def with_constants(arrays: dict[str, Any]) -> dict[str, Any]:
    """Returns the arrays with an LGR's anchor constants, computed once."""
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
    """Applies a head to features.

    Args:
      card: description of the model.
      arrays: `head`, for :func:`linear.scores` or LGR's parameters. An LGR also needs
        `anchors` and `added`: `embeddings` [C, M, D], `padding` [C, M], and optionally
        `constants`; `added` also has `offsets` [A].
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
    """Returns language logits of the added classes, offsets included."""
    offsets, params = arrays["added"]["offsets"], arrays["head"]
    first_layer = params["visual_fc"]["fc1"]
    width = first_layer["bias"].shape[0]
    # The visual branch has no logits for added classes; the compiler drops these.
    zeros = {
        "kernel": jnp.zeros((width, len(offsets))),
        "bias": jnp.zeros(len(offsets)),
    }
    params = {**params, "visual_fc": {"fc1": first_layer, "fc2": zeros}}
    return _lgr(card, params, features, arrays["added"])[1] + offsets[None, :]
