"""Every layer against `transformers.CLIPModel`, small and as ViT-B/32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from vl_ltr_jax.method.losses import contrastive_logits
from vl_ltr_jax.models.clip import PRESETS, Clip
from vl_ltr_jax.models.layers import ResidualBlock
from vl_ltr_jax.models.port.clip_files import load_clip, save_clip
from worlds.clip_oracle import hugging_face_batch, hugging_face_clip, relative_error


def compare_layers(theirs, config, variables, images, tokens):
    """Asserts that each layer, both embeddings and the logits are transformers'."""
    with torch.no_grad():
        outputs = theirs(
            input_ids=torch.from_numpy(tokens).long(),
            pixel_values=torch.from_numpy(images).permute(0, 3, 1, 2),
            interpolate_pos_encoding=True,
            output_hidden_states=True,
        )
    features, state = jax.jit(
        lambda *arguments: Clip(config).apply(
            *arguments,
            capture_intermediates=lambda module, _: isinstance(module, ResidualBlock),
            mutable=["intermediates"],
        )
    )(variables, jnp.asarray(images), jnp.asarray(tokens))
    for ours, tower, reference in zip(
        features,
        ("visual", "text"),
        (outputs.vision_model_output, outputs.text_model_output),
        strict=True,
    ):
        blocks = state["intermediates"][tower]
        for layer, hidden in enumerate(reference.hidden_states[1:]):
            (output,) = blocks.pop(f"resblocks_{layer}")["__call__"]
            assert relative_error(output, hidden) < 1e-5
        assert not blocks
        assert relative_error(ours, reference.pooler_output) < 1e-5
    scale = jnp.asarray(variables["params"]["logit_scale"])
    logits = contrastive_logits(*features, scale)
    assert relative_error(logits, outputs.logits_per_image) < 1e-4


@pytest.mark.parametrize(
    ("vision_changes", "text_changes"),
    [
        ({}, {}),
        ({"hidden_act": "gelu", "intermediate_size": 100}, {"num_attention_heads": 4}),
        ({"num_attention_heads": 8}, {"hidden_act": "gelu", "intermediate_size": 50}),
        # Old files have this for the end of text, and mean the largest id.
        ({}, {"eos_token_id": 2}),
    ],
)
def test_every_layer_of_a_small_model(tmp_path, vision_changes, text_changes):
    """And what is saved is the same model.

    Broken by GELU for QuickGELU, an epsilon of 1e-6 in any LayerNorm, patches read
    column by column, the class token put last, no causal mask, pooling at the last
    token, by an activation, heads or MLPs of OpenAI's models instead of the file's.
    """
    theirs = hugging_face_clip(vision_changes=vision_changes, text_changes=text_changes)
    theirs.save_pretrained(tmp_path)
    config, variables = load_clip(tmp_path)
    compare_layers(theirs, config, variables, *hugging_face_batch())
    save_clip(tmp_path / "saved", config, variables, dtype="float32")
    again, loaded = load_clip(tmp_path / "saved")
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)


def test_every_layer_of_a_full_size_model(tmp_path):
    """ViT-B/32 as its constructor draws it, with noise on biases and scales.

    Broken by a missing layer, by heads of another width, by positions interpolated
    without half-pixel centres or in another mode.
    """
    from transformers import CLIPConfig, CLIPModel

    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(32)
        theirs = CLIPModel(CLIPConfig(vision_config={"patch_size": 32})).eval()
        for parameter in theirs.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    theirs.save_pretrained(tmp_path)
    config, variables = load_clip(tmp_path, image_size=384)
    assert config == PRESETS["ViT-B/32"].at_image_size(384)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((2, 384, 384, 3), dtype=np.float32)
    tokens = np.full((2, 77), 49407, np.int32)  # their padding is the end token
    for row, length in zip(tokens, (77, 12), strict=True):
        row[: length - 1] = [49406, *rng.integers(0, 49406, length - 2)]
    compare_layers(theirs, config, variables, images, tokens)
