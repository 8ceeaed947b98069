"""OpenAI's own PyTorch CLIP, from the file in its package, and made-up weights."""

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

import torch

from vl_ltr_jax.models.clip import ClipConfig


def openai_file(name: str) -> Path:
    """A file of openai-clip, by path: importing the package needs torchvision."""
    files = importlib.metadata.files("openai-clip") or []
    return Path(str(next(f for f in files if f.name == name).locate()))


def openai_module(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"openai_{name}", openai_file(name))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def openai_modules(config: ClipConfig) -> torch.nn.Module:
    """OpenAI's model of these sizes, as its constructor leaves it."""
    vision, text = config.vision, config.text
    return openai_module("model.py").CLIP(
        config.embed_dim,
        vision.image_size,
        vision.layers,
        vision.width,
        vision.patch_size,
        text.context_length,
        text.vocab_size,
        text.width,
        text.heads,
        text.layers,
    )


def openai_clip(config: ClipConfig, seed: int = 0) -> torch.nn.Module:
    """The same, with no parameter zero or one."""
    model = openai_modules(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(1 + 0.25 * noise.abs())
            else:
                tensor.add_((0.02 if tensor.ndim > 1 else 0.1) * noise)
    return model.float().eval()
