"""The use of tokens by the text transformer.

`port/test_hugging_face.py` compares its layers.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vl_ltr_jax.models.clip import Clip
from worlds.clip_oracle import from_openai, relative_error, tiny_clip


@pytest.fixture(scope="module")
def embed():
    tiny = tiny_clip("vit")
    variables = from_openai(tiny.state, tiny.config)
    apply = jax.jit(Clip(tiny.config).apply, static_argnames="method")
    return lambda tokens: apply(variables, jnp.asarray(tokens), method="encode_text")


def test_tokens_behind_the_end_of_text_have_no_effect(embed):
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


def test_the_order_of_tokens_before_it_has_one(embed):
    tokens = np.zeros((2, 14), np.int32)
    tokens[0, :4] = 94, 7, 8, 95
    tokens[1, :4] = 94, 8, 7, 95
    first, second = np.asarray(embed(tokens))
    assert np.abs(first - second).max() > 0.01
