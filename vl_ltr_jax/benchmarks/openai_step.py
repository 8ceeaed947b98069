"""The authors' pre-training step in PyTorch, and its parts, for :mod:`train_step`."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch.nn import functional as F

from vl_ltr_jax.benchmarks import openai_clip, paired
from vl_ltr_jax.config.settings import Pretrain
from vl_ltr_jax.data.images import transforms
from vl_ltr_jax.models.clip import ClipConfig


class AuthorsStep:
    """Student and frozen teacher as the authors run them, sentences padded to 77."""

    def __init__(
        self,
        config: ClipConfig,
        variables: dict[str, Any],
        images: UInt8[np.ndarray, "B H W 3"],
        labels: Int[np.ndarray, " B"],
        tokens: Int[np.ndarray, "B L"],
        options: Pretrain,
    ) -> None:
        """Builds student and teacher.

        Args:
          config: sizes of both.
          variables: our weights of both.
          images: a batch.
          labels: its classes.
          tokens: its sentences, padded.
          options: weights of the losses, and AdamW's.
        """
        self.options = options
        self.student, self.teacher = (
            openai_clip.with_our_weights(config, variables) for _ in range(2)
        )
        self.teacher.requires_grad_(False)
        mean, std = np.array(transforms.NORMALIZATIONS["clip_4digit"], np.float32)
        pixels = (images.astype(np.float32) / 255 - mean) / std
        self.images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        if config.vision.kind == "vit":
            self.images = self.images.contiguous()
        for model in (self.student, self.teacher):
            model.eval()  # BatchNorm keeps its statistics, its weights learn
            if config.vision.kind == "resnet":
                model.to(memory_format=torch.channels_last)
        self.tokens = torch.from_numpy(tokens).long()
        same = labels[:, None] == labels[None]
        targets = torch.from_numpy(same).float()
        targets /= targets.sum(1, keepdim=True)
        smooth = options.label_smoothing
        self.targets = targets * (1 - smooth) + smooth / len(labels)
        trained: list[torch.Tensor] = list(self.student.parameters())
        decayed = [p for p in trained if p.ndim != 1]
        vectors = [p for p in trained if p.ndim == 1]
        groups: list[dict[str, Any]] = [
            {"params": decayed},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            groups,
            lr=options.learning_rate,
            weight_decay=options.weight_decay,
        )

    def programs(self) -> dict[str, paired.Build]:
        """The step, and the parts of it that take time."""
        student, teacher = self.student, self.teacher
        calls = {
            paired.STEP: self._step,
            "student's images": self._gradient(student.encode_image, self.images),
            "student's sentences": self._gradient(student.encode_text, self.tokens),
            "teacher's images": _frozen(teacher.encode_image, self.images),
            "teacher's sentences": _frozen(teacher.encode_text, self.tokens),
            "AdamW": self._adamw,
        }
        return {
            name: functools.partial(paired.Program.from_torch, call)
            for name, call in calls.items()
        }

    def _step(self) -> float:
        """One step; gives its loss."""

        def logits(model: Any) -> torch.Tensor:
            image = F.normalize(model.encode_image(self.images), dim=-1)
            text = F.normalize(model.encode_text(self.tokens), dim=-1)
            return model.logit_scale.exp() * image @ text.T

        ours = logits(self.student)
        with torch.no_grad():
            frozen = logits(self.teacher)
        weight = self.options.distillation_weight
        pairs = ((ours, frozen), (ours.T, frozen.T))
        directions = [
            (1 - weight) * F.cross_entropy(ours, self.targets)
            + weight * F.cross_entropy(ours, frozen.softmax(1))
            for ours, frozen in pairs
        ]
        loss = torch.stack(directions).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def _gradient(
        self, embed: Callable[[Any], torch.Tensor], inputs: torch.Tensor
    ) -> Callable[[], float]:
        def run() -> float:
            self.optimizer.zero_grad()
            total = embed(inputs).sum()
            total.backward()
            return total.item()

        return run

    def _adamw(self) -> float:
        for parameter in self.student.parameters():
            if parameter.grad is None:
                parameter.grad = torch.ones_like(parameter)
        self.optimizer.step()
        return self.student.logit_scale.item()


def _frozen(
    embed: Callable[[Any], torch.Tensor], inputs: torch.Tensor
) -> Callable[[], float]:
    def run() -> float:
        with torch.no_grad():
            return embed(inputs).sum().item()

    return run
