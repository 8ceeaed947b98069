"""open_clip's own PyTorch models, small and with made-up weights.

`conftest` has made its torchvision importable with a CPU build of torch.
"""

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import CLIP
from safetensors.numpy import save_file

VISION = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8}
TEXT = {"context_length": 14, "vocab_size": 100, "width": 48, "heads": 3, "layers": 2}


def model_cfg(quick_gelu=None, text=None, **vision):
    """The settings of a small model; without `quick_gelu` the key is absent."""
    model = {"embed_dim": 40, "vision_cfg": VISION | vision}
    model["text_cfg"] = TEXT | (text or {})
    return model if quick_gelu is None else {**model, "quick_gelu": quick_gelu}


def save(directory: Path, settings: dict[str, Any], **preprocess: Any) -> CLIP:
    """Writes a repository of open_clip's; returns the model."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = CLIP(**settings).eval()
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    directory.mkdir()
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    save_file(state, directory / "open_clip_model.safetensors")
    content = {"model_cfg": settings, "preprocess_cfg": preprocess}
    (directory / "open_clip_config.json").write_text(json.dumps(content))
    return model


def embeddings(model, images, tokens):
    """Returns the embeddings of both towers, not normalised."""
    with torch.no_grad():
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        texts = model.encode_text(torch.from_numpy(tokens).long())
        return model.encode_image(pixels).numpy(), texts.numpy()


def published(name: str) -> dict[str, Any]:
    """The settings that open_clip ships under a name."""
    return dict(open_clip.get_model_config(name))
