"""Zero-shot CLIP (Radford et al., 2021): the class whose text is most similar.

Nothing is trained. A class's text is one prompt, the mean of the unit embeddings of all
prompts (CLIP's ensemble), or that of all its sentences.
"""

from vl_ltr_jax.config.settings import Config, Method
from vl_ltr_jax.systems.recipe import Recipe, change


class ZeroShot(Recipe):
    """CLIP as it is, by one of `evaluate.zero_shot_text`."""

    result = "zero_shot"

    def __init__(self, name: Method, title: str, text: str) -> None:
        """Names it and the text that stands for a class."""
        self.name, self.title, self.text = name, title, text

    def configure(self, config: Config) -> Config:
        """No training, no other head."""
        return change(
            super().configure(config),
            pretrain={"epochs": 0},
            finetune={"epochs": 0},
            evaluate={"zero_shot": True, "zero_shot_text": self.text, "knn": False},
        )

    def faults(self, config: Config) -> list[str]:
        """Training, or no zero-shot evaluation."""
        options = config.evaluate
        if (options.zero_shot, options.zero_shot_text) == (True, self.text) and not (
            config.pretrain.epochs or config.finetune.epochs
        ):
            return []
        return [
            f"method={self.name!r} needs pretrain.epochs=0, finetune.epochs=0, "
            f"evaluate.zero_shot=True and evaluate.zero_shot_text={self.text!r}"
        ]


ZERO_SHOT = (
    ZeroShot("zero_shot_prompt", "Zero-shot CLIP, one prompt", "prompt"),
    ZeroShot("zero_shot_ensemble", "Zero-shot CLIP, prompt ensemble", "prompts"),
    ZeroShot("zero_shot_texts", "Zero-shot CLIP, all class texts", "sentences"),
)
