"""Oracles of the model tests: the authors' tiny models, and random HF ones."""

import json
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import torch
from safetensors.numpy import load_file

from vl_ltr_jax.benchmarks.openai_clip import openai_modules
from vl_ltr_jax.models.clip import ClipConfig, TextConfig, VisionConfig, variable_shapes
from vl_ltr_jax.models.port.names import OPENAI, from_tensors
from worlds.golden import GOLDEN


class TinyClip(NamedTuple):
    config: ClipConfig
    state: dict[str, np.ndarray]  # under OpenAI's names
    arrays: dict[str, np.ndarray]
    grad_norm_order: list[str]

    def batch(self):
        images = self.arrays["images"].transpose(0, 2, 3, 1)
        return jnp.asarray(images), jnp.asarray(self.arrays["tokens"], jnp.int32)


def tiny_clip(kind: str) -> TinyClip:
    """Returns the authors' tiny 'vit' or 'resnet', and their numbers."""
    folder, name = GOLDEN / "clip_tiny", {"vit": "vit", "resnet": "rn"}[kind]
    description = json.loads((folder / f"{name}.json").read_text())
    sizes = description["config"]
    width, layers = sizes["vision_width"], sizes["vision_layers"]
    vision = VisionConfig(
        kind,
        sizes["image_resolution"],
        width,
        layers if kind == "vit" else tuple(layers),
        width // 64 if kind == "vit" else width * 32 // 64,
        sizes["vision_patch_size"],
    )
    names = ("transformer_width", "transformer_layers", "transformer_heads")
    names += ("context_length", "vocab_size")
    text = TextConfig(*(sizes[name] for name in names))
    return TinyClip(
        ClipConfig(vision, text, sizes["embed_dim"]),
        load_file(folder / f"{name}.safetensors"),
        dict(np.load(folder / f"{name}.npz")),
        description["grad_norm_order"],
    )


def from_openai(state: dict[str, np.ndarray], config: ClipConfig) -> dict[str, Any]:
    """Returns the variables of `Clip` from a state dict of OpenAI's `clip/model.py`."""
    return from_tensors(state, variable_shapes(config), OPENAI, "the state dict")


def openai_clip(config: ClipConfig) -> torch.nn.Module:
    """Returns OpenAI's own model of these sizes, with no parameter zero or one."""
    model = openai_modules(config)
    generator = torch.Generator().manual_seed(0)
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


def hugging_face_clip(vision_changes=None, text_changes=None):
    """Returns a small `transformers.CLIPModel` with no parameter zero or one."""
    from transformers import CLIPConfig, CLIPModel

    text = {"hidden_size": 48, "intermediate_size": 192, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 3, "vocab_size": 100, "max_position_embeddings": 14}
    text |= {"bos_token_id": 98, "eos_token_id": 99, **(text_changes or {})}
    vision = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3}
    vision |= {"num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    vision |= vision_changes or {}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=40)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = CLIPModel(config).eval()
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def hugging_face_batch() -> tuple[np.ndarray, np.ndarray]:
    """Returns images [5, 32, 32, 3] and sentences [5, 14] of 3 to 14 tokens."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((5, 32, 32, 3), dtype=np.float32)
    tokens = np.zeros((5, 14), np.int32)
    for row, length in zip(tokens, (14, 3, 6, 9, 12), strict=True):
        row[:length] = [98, *rng.integers(0, 98, length - 2), 99]
    return images, tokens


def relative_error(ours: Any, theirs: Any) -> float:
    """Returns the largest difference over the largest magnitude."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
