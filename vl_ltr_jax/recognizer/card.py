"""The description of a recognizer."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from vl_ltr_jax.data.images.orientation import Orientation
from vl_ltr_jax.data.images.transforms import Constants
from vl_ltr_jax.logs.messages import counted, nfc
from vl_ltr_jax.models.clip import PRESETS, ClipConfig
from vl_ltr_jax.models.layers import Activation
from vl_ltr_jax.runtime.errors import UserError


class RecognizerError(UserError):
    """A request that the recognizer does not support."""


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """The facts about a recognizer, as plain JSON.

    Attributes:
      method: value of `config.method`.
      backbone: key of `models.clip.PRESETS`.
      image_size: side of the pictures in pixels.
      compute_dtype: dtype of the towers and of the head's large products.
      normalization: mean and standard deviation of pixels.
      vision_activation: activation of the image tower's MLPs.
      text_activation: activation of the text tower's MLPs.
      eval_recipe: key of `transforms.EVAL_RECIPES`.
      context_length: tokens of a sentence, start and end included.
      head: `lgr`, or `linear` for every head that is linear in the features.
      prediction: `mixture` or `sum`, for an LGR.
      visual_weight: alpha of the mixture.
      language_logit_scale: logarithm of s, for an LGR.
      num_trained: number of trained classes; added classes follow them.
      class_names: names of all classes.
      sentences: anchor sentences of each class, best first; empty if unknown.
      orientation: treatment of EXIF, see `decode.decode_image`.
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

    def describe(self, source: str = "") -> str:
        """Returns method, classes, backbone and image size in a line.

        Args:
          source: directory that the recognizer was loaded from, if any.
        """
        classes = counted(len(self.class_names), "class", "classes")
        if num_added := len(self.class_names) - self.num_trained:
            classes += f" ({num_added:,} added)"
        text = f"{self.method}, {classes}, {self.backbone} at {self.image_size} pixels"
        return f"{text}, from {source}" if source else text

    def with_class(self, name: str, sentences: Sequence[str]) -> "ModelCard":
        """Returns the card with one more class, known by its sentences.

        Raises:
          RecognizerError: the model has no language branch, the name is empty or
            taken, or there is no sentence.
        """
        if self.head != "lgr":
            raise RecognizerError(
                f"method={self.method}: a class is added through the language branch, "
                "which this model lacks. Train with finetune.head='lgr'"
            )
        names = [nfc(known) for known in self.class_names]
        if not name.strip() or nfc(name) in names:
            raise RecognizerError(
                f"name={name!r}: empty, or the name of a class. Use another name"
            )
        if not sentences:
            raise RecognizerError(
                f"sentences of {name!r}: empty. Give at least one sentence"
            )
        return dataclasses.replace(
            self,
            class_names=(*self.class_names, name),
            sentences=(*self.sentences, tuple(sentences)),
        )
