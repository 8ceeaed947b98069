"""CLIP's vision transformer, one of the paper's two image encoders (Sec. 4.1)."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vl_ltr_jax.models.attention import HERE, Target
from vl_ltr_jax.models.layers import Activation, Conv, LayerNorm, residual_blocks


class VisionTransformer(nn.Module):
    """Patches and a class token through residual blocks; the class token is projected.

    Attributes:
      patch_size: side of a patch in pixels.
      width: width D of the residual stream.
      mlp_width: hidden width of the blocks' MLPs.
      activation: activation of the MLPs.
      embed_dim: width E of the output.
      dtype: compute dtype; parameters and LayerNorms are float32.
      remat: policy of :func:`layers.rematerialized`.
      target: devices of the program, which decide the form of products.
    """

    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: Activation
    embed_dim: int
    dtype: DTypeLike = jnp.float32
    remat: str = "none"
    target: Target = HERE

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W 3"], *, train: bool = False
    ) -> Float[Array, "B E"]:
        """Embeds normalised images; training and inference are the same."""
        scale = nn.initializers.normal(self.width**-0.5)
        patches = Conv(
            self.width, self.patch_size, self.patch_size, self.dtype, name="conv1"
        )(images)
        x = patches.reshape(images.shape[0], -1, self.width)  # [B, P, D]
        token = self.param("class_embedding", scale, (self.width,)).astype(x.dtype)
        token = jnp.broadcast_to(token, (x.shape[0], 1, self.width))
        x = jnp.concatenate([token, x], axis=1)
        positions = self.param("positional_embedding", scale, x.shape[1:])
        x = x + positions.astype(x.dtype)[None]
        x = LayerNorm(name="ln_pre")(x).astype(self.dtype)
        x = residual_blocks(x, None, self)
        x = LayerNorm(name="ln_post")(x[:, 0])
        return nn.Dense(
            self.embed_dim,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=scale,
            name="proj",
        )(x)
