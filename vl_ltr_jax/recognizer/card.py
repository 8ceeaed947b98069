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
    """Something that this recognizer cannot do, or a picture that is none."""


@dataclasses.dataclass(frozen=True)
class ModelCard:
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
      orientation: of pictures, see `decode.decode_image`.
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

    def with_class(self, name: str, sentences: Sequence[str]) -> "ModelCard":
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
