"""Zero-shot CLIP (Radford et al., 2021): the class whose text is most similar.

Nothing is trained. The text of a class is one prompt, or a mean of unit embeddings: of
all prompts (CLIP's ensemble), or of all sentences.
"""

from collections.abc import Mapping
from typing import Any

from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.systems.recipe import Recipe


class ZeroShot(Recipe):
    """CLIP without training, by one choice of `evaluate.zero_shot_text`."""

    result = "zero_shot"
    finetuning = Recipe.name

    def __init__(self, name: str, title: str, text: str) -> None:
        """Names it and the text that stands for a class."""
        self.name, self.title = name, title
        self.needs = {
            "pretrain.epochs": 0,
            "finetune.epochs": 0,
            "evaluate.zero_shot": True,
            "evaluate.zero_shot_text": text,
        }

    def defaults(self, config: Config) -> Mapping[str, Any]:
        """Returns the key that leaves out the kNN head."""
        del config
        return {"evaluate.knn": False}


ZERO_SHOT = (
    ZeroShot("zero_shot_prompt", "Zero-shot CLIP, one prompt", "prompt"),
    ZeroShot("zero_shot_ensemble", "Zero-shot CLIP, prompt ensemble", "prompts"),
    ZeroShot("zero_shot_texts", "Zero-shot CLIP, all class texts", "sentences"),
)
