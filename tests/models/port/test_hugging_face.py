"""ViT-B/16 and ViT-B/32 at full size against `transformers.CLIPModel`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from vl_ltr_jax.method.losses import contrastive_logits
from vl_ltr_jax.models.clip import PRESETS, Clip
from vl_ltr_jax.models.layers import ResidualBlock
from vl_ltr_jax.models.port.clip_files import load_clip
from worlds.clip_oracle import relative_error

# Of the largest feature; 0.009 to 0.011 was measured, on two sentences and images.
BFLOAT16_BOUND = 0.02


@pytest.fixture(scope="module", params=[16, 32], ids=["ViT-B/16", "ViT-B/32"])
def model(request, tmp_path_factory):
    """A model as drawn by its constructor, with noise on biases and scales."""
    from transformers import CLIPConfig, CLIPModel

    directory = tmp_path_factory.mktemp("full")
    config = CLIPConfig(vision_config={"patch_size": request.param})
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(request.param)
        theirs = CLIPModel(config).eval()
        for parameter in theirs.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    theirs.save_pretrained(directory)
    return f"ViT-B/{request.param}", directory, theirs


def batch(image_size):
    rng = np.random.default_rng(image_size)
    images = rng.standard_normal((2, image_size, image_size, 3), dtype=np.float32)
    tokens = np.full((2, 77), 49407, np.int32)  # their padding is the end token
    for row, length in zip(tokens, (77, 12), strict=True):
        row[: length - 1] = [49406, *rng.integers(0, 49406, length - 2)]
    return images, tokens


def hidden_states(config, variables, method, inputs):
    """Our output, and that of each residual block."""
    ours, state = jax.jit(
        lambda variables, inputs: Clip(config).apply(
            variables,
            inputs,
            method=method,
            capture_intermediates=lambda module, _: isinstance(module, ResidualBlock),
            mutable=["intermediates"],
        )
    )(variables, jnp.asarray(inputs))
    (blocks,) = state["intermediates"].values()
    names = sorted(blocks, key=lambda name: int(name.rpartition("_")[2]))
    return ours, [blocks[name]["__call__"][0] for name in names]


@pytest.mark.parametrize("image_size", [224, 384])
def test_full_size_model_is_transformers(model, image_size):
    """Every layer, both embeddings and the logits.

    Broken by a missing layer, by heads of another width, by positions interpolated
    without half-pixel centres or in another mode, by pooling at the last token.
    """
    name, directory, theirs = model
    config, variables = load_clip(directory, image_size=image_size)
    assert config == PRESETS[name].at_image_size(image_size)
    images, tokens = batch(image_size)
    with torch.no_grad():
        outputs = theirs(
            input_ids=torch.from_numpy(tokens).long(),
            pixel_values=torch.from_numpy(images).permute(0, 3, 1, 2),
            interpolate_pos_encoding=image_size != 224,
            output_hidden_states=True,
        )
    vision, text = outputs.vision_model_output, outputs.text_model_output
    features = {}
    for method, inputs, reference in (
        ("encode_image", images, vision),
        ("encode_text", tokens, text),
    ):
        ours, layers = hidden_states(config, variables, method, inputs)
        assert len(layers) == 12
        for layer, expected in zip(layers, reference.hidden_states[1:], strict=True):
            assert relative_error(layer, expected) < 1e-5
        assert relative_error(ours, reference.pooler_output) < 1e-5
        features[method] = ours
    scale = jnp.asarray(variables["params"]["logit_scale"])
    logits = contrastive_logits(*features.values(), scale)
    assert relative_error(logits, outputs.logits_per_image) < 1e-4


@pytest.mark.parametrize("model", [32], indirect=True, ids=["ViT-B/32"])
def test_bfloat16_at_full_size(model):
    _, directory, _ = model
    config, variables = load_clip(directory)
    images, tokens = map(jnp.asarray, batch(224))
    exact = jax.jit(Clip(config).apply)(variables, images, tokens)
    coarse = jax.jit(Clip(config, dtype=jnp.bfloat16).apply)(variables, images, tokens)
    for ours, expected in zip(coarse, exact, strict=True):
        assert relative_error(ours.astype(jnp.float32), expected) < BFLOAT16_BOUND
