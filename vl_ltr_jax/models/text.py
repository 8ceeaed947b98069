"""CLIP's text transformer, the paper's language encoder (Sec. 3.2).

The tower is causal and a sentence is read off at its end-of-text token, so whatever
follows that token changes nothing: batches may be trimmed to their longest sentence.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Integer

from vl_ltr_jax.models.layers import LayerNorm, residual_blocks


class TextTransformer(nn.Module):
    """Tokens through causal residual blocks; the end-of-text position is projected.

    Attributes:
        width: Width D of the residual stream.
        layers: Number of residual blocks.
        heads: Attention heads.
        context_length: Most tokens in a sentence, start and end included.
        vocab_size: Number of token ids; end-of-text is the largest.
        embed_dim: Width E of the output.
        dtype: Compute dtype; parameters and LayerNorms stay float32.
        remat: Policy of `layers.rematerialized`.
    """

    width: int
    layers: int
    heads: int
    context_length: int
    vocab_size: int
    embed_dim: int
    dtype: DTypeLike = jnp.float32
    remat: str = "none"

    @nn.compact
    def __call__(self, tokens: Integer[Array, "B L"]) -> Float[Array, "B E"]:
        """Embeds sentences, each pooled at its first end-of-text token."""
        normal = nn.initializers.normal
        length = tokens.shape[1]
        x = nn.Embed(
            self.vocab_size,
            self.width,
            embedding_init=normal(0.02),
            dtype=self.dtype,
            name="token_embedding",
        )(tokens)
        positions = self.param(
            "positional_embedding", normal(0.01), (self.context_length, self.width)
        )
        x = x + positions[None, :length].astype(x.dtype)
        x = residual_blocks(
            x,
            jnp.tril(jnp.ones((1, 1, length, length), bool)),
            layers=self.layers,
            heads=self.heads,
            dtype=self.dtype,
            remat=self.remat,
        )
        x = x[jnp.arange(len(x)), tokens.argmax(axis=1)]
        return nn.Dense(
            self.embed_dim,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=normal(self.width**-0.5),
            name="text_projection",
        )(LayerNorm(name="ln_final")(x))
