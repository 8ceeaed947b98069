"""The linear head of the paper's ablation: one layer on the image embedding."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float


class LinearHead(nn.Module):
    """Linear classifier; float32 logits.

    Attributes:
      num_classes: number of classes, C.
      dtype: compute dtype; parameters are float32.
    """

    num_classes: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image_features: Float[Array, "B D"]) -> Float[Array, "B C"]:
        """Returns one logit per class."""
        visual_fc = nn.Dense(self.num_classes, dtype=self.dtype, name="visual_fc")
        return visual_fc(image_features).astype(jnp.float32)
