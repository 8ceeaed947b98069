"""CLIP's text transformer, the paper's language encoder (Sec. 3.2).

The tower is causal and pools a sentence at its end-of-text token. Later tokens have no
effect, so batches may be trimmed to their longest sentence, and sentences packed into
rows.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Integer

from vl_ltr_jax.models.attention import HERE, Target
from vl_ltr_jax.models.layers import Activation, LayerNorm, residual_blocks


class PackedTokens(NamedTuple):
    """Sentences packed into rows, in groups of R rows with b sentences.

    Attributes:
      tokens: token ids.
      segments: number of the sentence in its row from 1; 0 for padding.
      positions: position of each token in its sentence.
      ends: position of each end of text among the R L tokens of its group.
    """

    tokens: Integer[Array, "G R L"]
    segments: Integer[Array, "G R L"]
    positions: Integer[Array, "G R L"]
    ends: Integer[Array, "G b"]

    @property
    def visible(self) -> Bool[Array, "rows 1 L L"]:
        """True where a token attends to another: earlier, and of its sentence."""
        length = self.tokens.shape[-1]
        segments = self.segments.reshape(-1, 1, length)
        same = segments[..., :, None] == segments[..., None, :]
        places = jnp.arange(length)
        return same & (places[:, None] >= places[None, :])[None, None]


class TextTransformer(nn.Module):
    """Tokens through causal residual blocks; the end-of-text position is projected.

    Attributes:
      width: width D of the residual stream.
      mlp_width: hidden width of the blocks' MLPs.
      activation: activation of the MLPs.
      context_length: most tokens in a sentence, start and end included.
      vocab_size: number of token ids; end-of-text is the largest.
      embed_dim: width E of the output.
      dtype: compute dtype; parameters and LayerNorms are float32.
      remat: policy of :func:`layers.rematerialized`.
      target: devices of the program, which decide the form of products.
    """

    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: Activation
    context_length: int
    vocab_size: int
    embed_dim: int
    dtype: DTypeLike = jnp.float32
    remat: str = "none"
    target: Target = HERE

    @nn.compact
    def __call__(
        self, tokens: Integer[Array, "B L"] | PackedTokens
    ) -> Float[Array, "B E"]:
        """Embeds sentences, each pooled at its first end-of-text token."""
        normal = nn.initializers.normal
        packed = tokens if isinstance(tokens, PackedTokens) else None
        ids = tokens.tokens if isinstance(tokens, PackedTokens) else tokens
        length = ids.shape[-1]
        ids = ids.reshape(-1, length)
        x = nn.Embed(
            self.vocab_size,
            self.width,
            embedding_init=normal(0.02),
            dtype=self.dtype,
            name="token_embedding",
        )(ids)
        positions = self.param(
            "positional_embedding", normal(0.01), (self.context_length, self.width)
        )
        if packed is None:
            x = x + positions[None, :length].astype(x.dtype)
            visible = jnp.tril(jnp.ones((1, 1, length, length), bool))
        else:
            x = x + positions.astype(x.dtype)[packed.positions.reshape(-1, length)]
            visible = packed.visible
        x = residual_blocks(x, visible, self)
        if packed is None:
            x = x[jnp.arange(len(x)), ids.argmax(axis=1)]
        else:
            groups = x.reshape(len(packed.ends), -1, self.width)
            ends = jax.vmap(lambda group, places: group[places])(groups, packed.ends)
            x = ends.reshape(-1, self.width)
        return nn.Dense(
            self.embed_dim,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=normal(self.width**-0.5),
            name="text_projection",
        )(LayerNorm(name="ln_final")(x))
