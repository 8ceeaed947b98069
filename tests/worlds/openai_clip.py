"""OpenAI's own PyTorch CLIP with made-up weights."""

import torch

from vl_ltr_jax.benchmarks.openai_clip import openai_modules
from vl_ltr_jax.models.clip import ClipConfig


def openai_clip(config: ClipConfig, seed: int = 0) -> torch.nn.Module:
    """The model of these sizes, with no parameter zero or one."""
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
