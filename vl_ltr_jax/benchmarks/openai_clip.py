"""OpenAI's own PyTorch CLIP, which the authors' code is built on, as the other side.

The file comes from the package openai-clip, by path: importing the package itself needs
torchvision. Both it and torch are in the extra `test`.
"""

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

import torch

from vl_ltr_jax.models.clip import ClipConfig
from vl_ltr_jax.models.port import names
from vl_ltr_jax.runtime.errors import UserError


class NoOpenAIClipError(UserError):
    """The package openai-clip is not installed, or has no such model."""


def openai_file(name: str) -> Path:
    """A file of openai-clip.

    Raises:
      NoOpenAIClipError: if the package, or the file in it, is absent.
    """
    try:
        files = importlib.metadata.files("openai-clip") or []
        return Path(str(next(f for f in files if f.name == name).locate()))
    except (importlib.metadata.PackageNotFoundError, StopIteration):
        raise NoOpenAIClipError(
            f"{name} of the package openai-clip is not installed; "
            "pip install openai-clip==1.0.1"
        ) from None


def openai_module(name: str) -> Any:
    """A file of openai-clip as a module; see :func:`openai_file`."""
    spec = importlib.util.spec_from_file_location(
        f"openai_{Path(name).stem}", openai_file(name)
    )
    if spec is None or spec.loader is None:
        raise NoOpenAIClipError(f"{name} of openai-clip is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def openai_modules(config: ClipConfig) -> Any:
    """OpenAI's model of these sizes, as its constructor leaves it.

    Raises:
      NoOpenAIClipError: if the towers are of a kind that it does not build.
    """
    vision, text = config.vision, config.text
    if text.activation != "quick_gelu":
        raise NoOpenAIClipError(
            f"OpenAI's code has QuickGELU alone, and these sizes {text.activation}; "
            "name a backbone of OpenAI's"
        )
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


def with_our_weights(config: ClipConfig, variables: dict[str, Any]) -> Any:
    """OpenAI's model with the weights of ours."""
    model = openai_modules(config).float()
    state = names.to_tensors(variables, names.OPENAI)
    state |= names.batch_counters(state)
    model.load_state_dict({name: torch.from_numpy(a) for name, a in state.items()})
    return model
