"""The text transformer, layer by layer against PyTorch, and its use of tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from vl_ltr_jax.models.clip import Clip
from vl_ltr_jax.models.layers import ResidualBlock
from vl_ltr_jax.models.port.clip_files import load_clip
from worlds.clip_oracle import (
    from_openai,
    hugging_face_batch,
    hugging_face_clip,
    relative_error,
    tiny_clip,
)


def test_every_layer_is_hugging_faces(tmp_path):
    """Broken by GELU for QuickGELU, no causal mask, pooling at the last token."""
    model = hugging_face_clip()
    model.save_pretrained(tmp_path)
    _, tokens = hugging_face_batch()
    with torch.no_grad():
        theirs = model.text_model(
            input_ids=torch.from_numpy(tokens), output_hidden_states=True
        )
        expected = model.text_projection(theirs.pooler_output)
    config, variables = load_clip(tmp_path)
    ours, state = Clip(config).apply(
        variables,
        jnp.asarray(tokens),
        method="encode_text",
        capture_intermediates=lambda module, _: isinstance(module, ResidualBlock),
        mutable=["intermediates"],
    )
    layers = state["intermediates"]["text"]
    assert len(layers) == config.text.layers
    for layer, hidden in enumerate(theirs.hidden_states[1:]):
        (output,) = layers[f"resblocks_{layer}"]["__call__"]
        assert relative_error(output, hidden) < 1e-5
    assert relative_error(ours, expected) < 1e-5


@pytest.fixture(scope="module")
def embed():
    tiny = tiny_clip("vit")
    variables = from_openai(tiny.state, tiny.config)
    apply = jax.jit(Clip(tiny.config).apply, static_argnames="method")
    return lambda tokens: apply(variables, jnp.asarray(tokens), method="encode_text")


def test_what_follows_end_of_text_has_no_effect(embed):
    """Neither padding, nor its absence, nor a second end-of-text.

    Broken by a missing causal mask or by pooling at the last position.
    """
    start, end = 94, 95
    padded = np.zeros((1, 14), np.int32)
    padded[0, :5] = start, 7, 8, 9, end
    followed = padded.copy()
    followed[0, 5:9] = 33, end, 12, end
    expected = embed(padded)
    np.testing.assert_array_equal(embed(followed), expected)
    for length in (5, 8):
        trimmed = embed(padded[:, :length])
        assert relative_error(trimmed, expected) < 1e-6
    np.testing.assert_array_equal(embed(padded.astype(np.uint16)), expected)


def test_what_precedes_it_does(embed):
    tokens = np.zeros((2, 14), np.int32)
    tokens[0, :4] = 94, 7, 8, 95
    tokens[1, :4] = 94, 8, 7, 95
    first, second = np.asarray(embed(tokens))
    assert np.abs(first - second).max() > 0.01
