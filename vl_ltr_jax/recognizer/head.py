"""Heads as functions of their arrays: what features say of every class.

The recognizer's forms of what a run has trained: LGR, with classes that were added by
their sentences, and any head that is linear in the features.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vl_ltr_jax.data.images.orientation import Orientation
from vl_ltr_jax.data.images.transforms import Constants
from vl_ltr_jax.data.root import nfc
from vl_ltr_jax.evaluate import accuracy
from vl_ltr_jax.logs.console import counted
from vl_ltr_jax.models import linear
from vl_ltr_jax.models.clip import PRESETS, ClipConfig
from vl_ltr_jax.models.layers import Activation
from vl_ltr_jax.models.lgr import LanguageGuidedHead, anchor_constants
from vl_ltr_jax.recognizer import added_classes
from vl_ltr_jax.runtime.errors import UserError


class RecognizerError(UserError):
    """Something that this recognizer cannot do, or a picture that is none."""


@dataclasses.dataclass(frozen=True)
class Card:
    """What is known of a recognizer besides its arrays; all of it plain JSON.

    Attributes:
      method: value of `config.method`.
      backbone: key of `models.clip.PRESETS`.
      image_size: side of the pictures in pixels.
      compute_dtype: of the towers and the head's large products.
      normalization: mean and standard deviation of pixels.
      vision_activation: of the image tower's MLPs.
      text_activation: of the text tower's.
      eval_recipe: from a picture to pixels.
      context_length: tokens of a sentence, start and end included.
      head: `lgr`, or `linear` for every head that is linear in the features.
      prediction: of the LGR: `mixture` or `sum`.
      visual_weight: alpha of the mixture.
      language_logit_scale: logarithm of s, of the LGR.
      num_trained: classes that were trained; those after them were added.
      class_names: of all classes.
      sentences: anchor sentences of each class, best first; empty where unknown.
      orientation: of pictures, see `data.images.decode_image`.
    """

    method: str
    backbone: str
    image_size: int
    compute_dtype: str
    normalization: Constants
    vision_activation: Activation
    text_activation: Activation
    eval_recipe: str
    context_length: int
    head: Literal["lgr", "linear"]
    prediction: str
    visual_weight: float
    language_logit_scale: float
    num_trained: int
    class_names: tuple[str, ...]
    sentences: tuple[tuple[str, ...], ...]
    orientation: Orientation = "exif"

    @property
    def clip_config(self) -> ClipConfig:
        """Sizes of the towers."""
        sizes = PRESETS[self.backbone].at_image_size(self.image_size)
        return sizes.with_activations(self.vision_activation, self.text_activation)

    def described(self, source: str = "") -> str:
        """Method, classes, backbone and image size in a line.

        Args:
          source: where it is from; empty where it is from nowhere.
        """
        classes = counted(len(self.class_names), "class", "classes")
        if added := len(self.class_names) - self.num_trained:
            classes += f" ({added:,} added)"
        about = f"{self.method}, {classes}, {self.backbone} at {self.image_size} pixels"
        return f"{about}, from {source}" if source else about

    def with_class(self, name: str, sentences: Sequence[str]) -> "Card":
        """The card with one more class, known by its sentences.

        Raises:
          RecognizerError: if the model has no language branch, the name is taken, or
            there is no sentence.
        """
        if self.head != "lgr":
            raise RecognizerError(
                f"a class can be added to a model with a language branch; this one is "
                f"of method {self.method!r}, whose head knows images alone. Train with "
                "finetune.head='lgr'"
            )
        if not name.strip():
            raise RecognizerError(f"a class needs a name; {name!r} is none")
        names = [nfc(known) for known in self.class_names]
        if nfc(name) in names:
            raise RecognizerError(
                f"there is a class {name!r} already, label {names.index(nfc(name))}; "
                "name the new one otherwise"
            )
        if not sentences:
            raise RecognizerError(
                f"the class {name!r} has no sentence; it is recognised by them alone"
            )
        return dataclasses.replace(
            self,
            class_names=(*self.class_names, name),
            sentences=(*self.sentences, tuple(sentences)),
        )


class Said(NamedTuple):
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


def apply(card: Card, arrays: dict[str, Any], features: Float[Array, "b D"]) -> Said:
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
        return Said(probabilities, probabilities)
    visual, language = _lgr(card, arrays["head"], features, arrays["anchors"])
    if card.prediction == "mixture":
        trained = accuracy.mixture(visual, language, card.visual_weight)
    else:
        trained = jax.nn.softmax(accuracy.sum_of_logits(visual, language))
    if not len(arrays["added"]["offsets"]):
        return Said(trained, trained, visual, language)
    added = _added_logits(card, arrays, features)
    return Said(
        added_classes.join(trained, language, added),
        trained,
        visual,
        jnp.concatenate([language, added], axis=1),
    )


def _lgr(
    card: Card,
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
    card: Card, arrays: dict[str, Any], features: Float[Array, "b D"]
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
